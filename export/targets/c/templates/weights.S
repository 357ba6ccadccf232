/* The content of $name.bin in a program of its own board, for which these are no files: name_weights in $name.h. */
    .section .rodata.name_weights, "a"
    .balign 64
    .global name_weights
    .type name_weights, %object
name_weights:
    .incbin "$name.bin"
    .size name_weights, . - name_weights
