/* What stands around a program on a RISC-V in QEMU that picolibc starts: measures at its end, and an end to a fault.
   Source: The RISC-V Instruction Set Manual, volume II, "Machine-Level ISA". */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void print_measures(void);

/* The stack may be what is wrong: the report starts a new one. */
__attribute__((used, noreturn)) static void report_fault(unsigned long cause)
{
    printf("the processor faulted, mcause %lu\n", cause);
    fflush(stdout);
    _exit(128);
    for (;;) {}
}
__attribute__((naked, used, aligned(4))) static void fault(void)
{
    __asm__ volatile(".option arch, +zicsr\n csrr a0, mcause\n la sp, __stack\n j report_fault");
}

__attribute__((constructor)) static void start(void)
{
    __asm__ volatile(".option push\n .option arch, +zicsr\n csrw mtvec, %0\n .option pop" ::"r"(fault));
    atexit(print_measures);
}
