/* Preloaded by disks.py: while the file that FAULTS_READ_ONLY names is there, the disk FAULTS_DISK (a folder) is one that
 * the kernel has made read-only under running processes, as it does after an error of the disk: what is open stays open
 * and can be read, and whatever would write is refused with EROFS. A mount cannot play this: one that somebody writes to
 * is not made read-only, and one that an error made so is never writable again. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int ours(const char *path) {
    const char *order = getenv("FAULTS_READ_ONLY"), *disk = getenv("FAULTS_DISK");
    size_t length = disk ? strlen(disk) : 0;
    if (!order || !length || strncmp(path, disk, length) || (path[length] && path[length] != '/')) return 0;
    int before = errno, there = !access(order, F_OK);
    errno = before;
    return there;
}

static int refused(const char *path) {
    if (!ours(path)) return 0;
    errno = EROFS;
    return 1;
}

static int refused_open(int fd) {
    char link[40], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = fd < 3 ? -1 : readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return refused(path);
}

/* On a disk that is read-only a file that is there may be opened with O_CREAT, but not for writing. */
static int writes(int flags, const char *path) {
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) || ((flags & O_CREAT) && access(path, F_OK));
}

#define OPEN(name)                                                  \
    int name(const char *path, int flags, ...) {                    \
        va_list more;                                               \
        va_start(more, flags);                                      \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                               \
        REAL(name);                                                 \
        if (writes(flags, path) && refused(path)) return -1;        \
        return real(path, flags, mode);                             \
    }
OPEN(open)
OPEN(open64)

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    REAL(pwrite64);
    return refused_open(fd) ? -1 : real(fd, data, length, offset);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }
ssize_t write(int fd, const void *data, size_t length) {
    REAL(write);
    return refused_open(fd) ? -1 : real(fd, data, length);
}
int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    return refused_open(fd) ? -1 : real(fd, length);
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }
int unlink(const char *path) {
    REAL(unlink);
    return refused(path) ? -1 : real(path);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return refused(path) ? -1 : real(path, mode);
}
