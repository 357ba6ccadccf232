/* Start of a program on a Cortex-M in QEMU, and the system calls of newlib by way of semihosting.
   Source: Arm, "Semihosting for AArch32 and AArch64", release 3.0. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[], heap_start[], heap_end[], stack_top[];
int main(int argc, char **argv);
void print_measures(void);

static int semihosting(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void _exit(int code)
{
    const uint32_t reason[2] = {0x20026, (uint32_t)code}; /* ADP_Stopped_ApplicationExit */
    semihosting(0x20, reason);                            /* SYS_EXIT_EXTENDED */
    for (;;) {}
}

int _write(int file, const char *text, int bytes)
{
    (void)file;
    for (int i = 0; i < bytes; i++) semihosting(0x03, text + i); /* SYS_WRITEC */
    return bytes;
}

void *_sbrk(intptr_t bytes)
{
    static char *end = (char *)heap_start;
    if (bytes > (char *)heap_end - end) return (void *)-1;
    end += bytes;
    return end - bytes;
}

int _read(int file, char *text, int bytes) { return (void)file, (void)text, (void)bytes, 0; }
int _close(int file) { return (void)file, -1; }
int _lseek(int file, int offset, int whence) { return (void)file, (void)offset, (void)whence, 0; }
int _isatty(int file) { return (void)file, 1; }
int _getpid(void) { return 1; }
int _kill(int process, int signal) { return (void)process, _exit(128 + signal), -1; }
int _fstat(int file, struct stat *found)
{
    (void)file;
    found->st_mode = S_IFCHR;
    return 0;
}

/* The stack may be what is wrong: the report starts a new one. */
__attribute__((used, noreturn)) static void report_fault(void)
{
    const uint32_t status = *(volatile uint32_t *)0xE000ED28; /* Configurable Fault Status Register */
    semihosting(0x04, "the processor faulted, CFSR 0x"); /* SYS_WRITE0 */
    for (int shift = 28; shift >= 0; shift -= 4) semihosting(0x03, &"0123456789abcdef"[status >> shift & 15]);
    semihosting(0x03, "\n");
    _exit(128);
    for (;;) {}
}
__attribute__((naked, used)) static void fault(void)
{
    __asm__ volatile("ldr r0, =stack_top\n mov sp, r0\n b report_fault");
}

__attribute__((noreturn)) void reset(void);
void reset(void)
{
    static char name[] = "selftest", *arguments[] = {name, NULL};
    volatile uint32_t *const fpu = (uint32_t *)0xE000ED88; /* Coprocessor Access Control Register */
    *fpu |= 0xF << 20;
    __asm__ volatile("dsb\n isb" ::: "memory");
    memcpy(data_start, data_load, (size_t)((char *)data_end - (char *)data_start));
    memset(bss_start, 0, (size_t)((char *)bss_end - (char *)bss_start));
    const int code = main(1, arguments);
    print_measures();
    exit(code);
}

/* Initial stack, reset, NMI, then the faults. */
__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};
