/* glibc_floor.h: a build on a new Linux runs on an old one.
 *
 * Guarantees: fstat() and the functions for thread keys need no glibc newer than 2.17 (manylinux_2_17), whatever glibc
 * they are compiled with, and do what they always did. It is empty where that is not known to hold.
 * .ci/check_wheels.py finds out whether anything else needs more.
 *
 * Why it is needed: the linker ties each symbol to the newest version that the building system has. glibc 2.33 gave
 * fstat() a symbol of its own, and 2.34 gave one to what it moved out of libpthread, without a change in what they do.
 */
#ifndef FORKSAFE_GLIBC_FLOOR_H
#define FORKSAFE_GLIBC_FLOOR_H

#include <errno.h> /* any header of glibc's tells which one it is */

#if defined(__linux__) && defined(__GLIBC__) && defined(__LP64__) && (defined(__x86_64__) || defined(__aarch64__))

#if __GLIBC_PREREQ(2, 34)
#ifdef __x86_64__
#define FIRST_GLIBC "GLIBC_2.2.5"
#else
#define FIRST_GLIBC "GLIBC_2.17"
#endif
/* The same functions under the version they had in libpthread. The dynamic linker compares names and versions, not
 * which library had them, so an older system's libpthread, which every Python there is linked with, has them. */
__asm__(".symver pthread_key_create, pthread_key_create@" FIRST_GLIBC);
__asm__(".symver pthread_getspecific, pthread_getspecific@" FIRST_GLIBC);
__asm__(".symver pthread_setspecific, pthread_setspecific@" FIRST_GLIBC);
#endif

/* On these two the kernel's struct stat is glibc's. */
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
_Static_assert(sizeof(struct stat) == (sizeof(nlink_t) == 8 ? 144 : 128), "struct stat is the kernel's");
static inline int forksafe_fstat(int fd, struct stat *st) { return (int)syscall(SYS_fstat, fd, st); }
#define fstat forksafe_fstat

#endif
#endif
