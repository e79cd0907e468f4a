/* The C limit: anonymous memory to anonymous memory of another process over TCP loopback, a thread per channel.
 *
 * What a program without protocol, checksum or scan reaches on these sockets: blocking send and recv with MSG_WAITALL of
 * whole slots, slot n on channel n modulo channels, straight from and to populated memory on huge pages.
 *
 * usage: c_limit BYTES CHANNELS SLOT CONGESTION
 * A line of JSON on stdout.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHANNELS_MAX 64

static size_t bytes, slot;
static int channels;
static const char *congestion;
static char *source, *destination;

struct channel {
    pthread_t thread;
    int number, socket;
};

static void check(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static char *populated(void)
{
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(memory != MAP_FAILED, "mmap");
    madvise(memory, bytes, MADV_HUGEPAGE); /* a kernel without huge pages has none to give */
    memset(memory, 1, bytes);
    return memory;
}

static void fill(char *memory)
{
    unsigned long long state = 88172645463325252ull;
    for (size_t at = 0; at + 8 <= bytes; at += 8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        memcpy(memory + at, &state, 8);
    }
}

static void tune(int connection)
{
    int on = 1;
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    check(!setsockopt(connection, IPPROTO_TCP, TCP_CONGESTION, congestion, strlen(congestion)), "congestion control");
}

static size_t length_at(size_t at)
{
    return at + slot < bytes ? slot : bytes - at;
}

static void *send_all(void *argument)
{
    struct channel *channel = argument;
    for (size_t at = channel->number * slot; at < bytes; at += channels * slot)
        for (size_t length = length_at(at), done = 0; done < length;) {
            ssize_t sent = send(channel->socket, source + at + done, length - done, MSG_NOSIGNAL);
            check(sent > 0, "send");
            done += sent;
        }
    return NULL;
}

static void *receive_all(void *argument)
{
    struct channel *channel = argument;
    for (size_t at = channel->number * slot; at < bytes; at += channels * slot)
        for (size_t length = length_at(at), done = 0; done < length;) {
            ssize_t got = recv(channel->socket, destination + at + done, length - done, MSG_WAITALL);
            check(got > 0, "recv");
            done += got;
        }
    return NULL;
}

static void run(struct channel *all, void *(*work)(void *))
{
    for (int n = 0; n < channels; n++)
        check(!pthread_create(&all[n].thread, NULL, work, &all[n]), "pthread_create");
    for (int n = 0; n < channels; n++)
        pthread_join(all[n].thread, NULL);
}

static void serve(int listener, int reports)
{
    struct channel all[CHANNELS_MAX];
    char ready = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* or a failed parent would leave it waiting, with its memory */
    destination = populated();
    check(write(reports, &ready, 1) == 1, "write");
    for (int n = 0; n < channels; n++) {
        all[n].number = n;
        all[n].socket = accept(listener, NULL, NULL);
        check(all[n].socket >= 0, "accept");
        tune(all[n].socket);
        check(write(reports, &ready, 1) == 1, "write"); /* one at a time, so that numbers agree */
    }
    double before = seconds(CLOCK_PROCESS_CPUTIME_ID);
    run(all, receive_all);
    double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - before;
    check(write(reports, &cpu, sizeof cpu) == sizeof cpu, "write");
    if (memcmp(source, destination, bytes)) { /* a copy of the sender's from before it was sent */
        fprintf(stderr, "the memories differ\n");
        exit(1);
    }
    exit(0);
}

static void measure(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    struct channel all[CHANNELS_MAX];
    int listener = socket(AF_INET, SOCK_STREAM, 0), reports[2], status;
    char ready;
    double other;
    check(!bind(listener, (void *)&address, sizeof address) && !listen(listener, CHANNELS_MAX), "listen");
    getsockname(listener, (void *)&address, &length);
    tune(listener); /* what is wrong with it shows before there is a child */
    check(!pipe(reports), "pipe");
    pid_t child = fork();
    check(child >= 0, "fork");
    if (!child)
        serve(listener, reports[1]);
    close(reports[1]); /* a child that fails ends the reads below */
    check(read(reports[0], &ready, 1) == 1, "the destination's memory");
    for (int n = 0; n < channels; n++) {
        all[n].number = n;
        all[n].socket = socket(AF_INET, SOCK_STREAM, 0);
        tune(all[n].socket);
        check(!connect(all[n].socket, (void *)&address, sizeof address), "connect");
        check(read(reports[0], &ready, 1) == 1, "the destination's accept");
    }
    double before = seconds(CLOCK_PROCESS_CPUTIME_ID), began = seconds(CLOCK_MONOTONIC);
    run(all, send_all);
    check(read(reports[0], &other, sizeof other) == sizeof other, "the destination's report");
    double elapsed = seconds(CLOCK_MONOTONIC) - began, cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - before + other;
    for (int n = 0; n < channels; n++)
        close(all[n].socket);
    close(listener);
    close(reports[0]);
    waitpid(child, &status, 0);
    check(!status, "the destination failed");
    printf("{\"seconds\": %.6f, \"cpu_s\": %.6f}\n", elapsed, cpu);
    fflush(stdout);
}

int main(int count, char **arguments)
{
    if (count != 5) {
        fprintf(stderr, "usage: c_limit BYTES CHANNELS SLOT CONGESTION\n");
        return 2;
    }
    bytes = strtoull(arguments[1], NULL, 10);
    channels = atoi(arguments[2]);
    slot = strtoull(arguments[3], NULL, 10);
    congestion = arguments[4];
    if (!bytes || !slot || channels < 1 || channels > CHANNELS_MAX) {
        fprintf(stderr, "BYTES and SLOT are 1 or more, CHANNELS 1 to %d\n", CHANNELS_MAX);
        return 2;
    }
    source = populated();
    fill(source);
    measure();
    return 0;
}
