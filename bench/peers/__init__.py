"""Others that move bytes between processes, each as its own documents would have one write it: a file a peer."""
