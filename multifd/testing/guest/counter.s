# A guest in 64 KiB of ROM: fills some RAM once, then for ever counts, dirties RAM and prints the count on the serial
# port, eight hexadecimal digits and a newline a step. Everything it knows is in RAM and registers, so it goes on
# after a migration as if nothing had been; a line that is lost, doubled or torn shows on the serial port.
#
# The first 32 bytes of the ROM are its settings, which whoever makes the image writes (multifd/testing/guest.py):
#
#     0   bytes of RAM to fill with random words, from 1 MiB on
#     4   bytes of RAM to dirty in each step, one word a page, from 1 MiB on
#     8   divisor of the timer: a step for each tick (of 1193182 / divisor a second); 0: no timer, step after step
#
# RAM: the count is the word at 0x10000, the stack grows down from 0x8000.

        .set    ROM, 0xffff0000         # where the image lies; it ends at 4 GiB
        .set    COUNT, 0x10000
        .set    STACK, 0x8000
        .set    DATA, 0x100000
        .set    SERIAL, 0x3f8
        .set    FUNCTION, 2048          # where in a page its function is: beside what is written
        .set    RETURN, 0xc3
        .set    TIMER_VECTOR, 0x20
        .set    APIC, 0xfee00000

        .text
settings:
filled_bytes:   .long   0
dirtied_bytes:  .long   0
timer_divisor:  .long   0
        .org    32

# Flat segments of 4 GiB, marked as accessed: the processor can't mark them in ROM.
        .balign 8
segments:
        .quad   0
        .quad   0x00cf9b000000ffff      # 8: code
        .quad   0x00cf93000000ffff      # 16: data
segments_pointer:
        .word   . - segments - 1
        .long   ROM + (segments - settings)

# One interrupt, the timer's. All others are masked, and faults end the machine by a third one.
        .balign 8
vectors:
        .fill   TIMER_VECTOR * 8, 1, 0
        .word   tick - settings, 8, 0x8e00, ROM >> 16
vectors_pointer:
        .word   . - vectors - 1
        .long   ROM + (vectors - settings)

        .code16
begin:
        cli
        lgdtl   %cs:segments_pointer - settings
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $8, $ROM + (protected - settings)

        .code32
protected:
        movl    $16, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $STACK, %esp
        lidt    ROM + (vectors_pointer - settings)
        inb     $0x92, %al              # address line 20
        orb     $2, %al
        andb    $0xfe, %al              # and no reset
        outb    %al, $0x92

fill:
        movl    $DATA, %edi
        movl    ROM + (filled_bytes - settings), %ecx
        shrl    $2, %ecx
        jz      functions
        movl    $2463534242, %eax       # xorshift32
1:      movl    %eax, %edx
        shll    $13, %edx
        xorl    %edx, %eax
        movl    %eax, %edx
        shrl    $17, %edx
        xorl    %edx, %eax
        movl    %eax, %edx
        shll    $5, %edx
        xorl    %edx, %eax
        stosl
        decl    %ecx
        jnz     1b

# Every page that is written gets a function that only returns, and that is called before each write. QEMU's emulation
# (TCG) lets writes go past its log of dirty pages once a page is logged, and on a busy machine it sometimes fails to
# stop that when a migration clears the log: then such a page is stale at the destination. Pages with code in them are
# always logged.
functions:
        movb    $RETURN, COUNT + FUNCTION
        movb    $RETURN, STACK - 4096 + FUNCTION
        movl    $DATA, %edi
        movl    ROM + (dirtied_bytes - settings), %ecx
        addl    %edi, %ecx
1:      cmpl    %ecx, %edi
        jae     timer
        movb    $RETURN, FUNCTION(%edi)
        addl    $4096, %edi
        jmp     1b

timer:
        movl    ROM + (timer_divisor - settings), %ebx
        movl    $0x1ff, APIC + 0xf0     # the processor's own controller is on, and
        movl    $0x700, APIC + 0x350    # passes on what the old ones say
        movb    $0x11, %al              # interrupt controllers: from vector 0x20 on, all but the timer masked
        outb    %al, $0x20
        outb    %al, $0xa0
        movb    $TIMER_VECTOR, %al
        outb    %al, $0x21
        movb    $TIMER_VECTOR + 8, %al
        outb    %al, $0xa1
        movb    $4, %al
        outb    %al, $0x21
        movb    $2, %al
        outb    %al, $0xa1
        movb    $1, %al
        outb    %al, $0x21
        outb    %al, $0xa1
        movb    $0xfe, %al
        outb    %al, $0x21
        movb    $0xff, %al
        outb    %al, $0xa1
        movb    $0x34, %al              # counter 0, low byte then high byte, periodic
        outb    %al, $0x43
        movb    %bl, %al
        outb    %al, $0x40
        movb    %bh, %al
        outb    %al, $0x40

step:
        testl   %ebx, %ebx
        jz      1f
        sti
        hlt                             # until the next tick
        cli
1:      movl    $COUNT + FUNCTION, %eax
        call    *%eax
        movl    $STACK - 4096 + FUNCTION, %eax
        call    *%eax
        incl    COUNT
        movl    COUNT, %ebp

dirty:
        movl    $DATA, %edi
        movl    ROM + (dirtied_bytes - settings), %ecx
        addl    %edi, %ecx
1:      cmpl    %ecx, %edi
        jae     print
        leal    FUNCTION(%edi), %eax
        call    *%eax
        movl    %ebp, (%edi)
        addl    $4096, %edi
        jmp     1b

print:
        movl    $8, %ecx
1:      roll    $4, %ebp
        movl    %ebp, %eax
        andb    $15, %al
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     2f
        addb    $'a' - '0' - 10, %al
2:      call    put
        decl    %ecx
        jnz     1b
        movb    $'\n', %al
        call    put
        jmp     step

# Write %al to the serial port once it takes it.
put:
        movb    %al, %ah
        movl    $SERIAL + 5, %edx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        movb    %ah, %al
        movl    $SERIAL, %edx
        outb    %al, %dx
        ret

tick:
        pushl   %eax
        movb    $0x20, %al
        outb    %al, $0x20
        popl    %eax
        iret

# The processor begins here, 16 bytes before the end.
        .org    0xfff0
        .code16
        jmp     begin
        .org    0x10000
