/* Preloaded by power.py: writes down, in order, what a process does to the database's files, so that a power cut can be
 * played afterwards: what no fsync had covered by then may be lost. Each record is one append.
 *
 * A write is noted before it is done and a sync after it is done, with the journal's length before it began: so the
 * journal never calls anything lost that was safe. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE = 2, SYNC = 3, UNLINK = 4 };
struct record { uint32_t magic, kind; uint64_t offset, length, seen; char name[32]; };

static int journal = -1;
static char folder[PATH_MAX];
static size_t folder_length;
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_ftruncate)(int, off64_t), (*real_unlink)(const char *);

static void set_up(void) {
    if (real_write) return;
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    const char *to = getenv("FAULTS_JOURNAL"), *of = getenv("FAULTS_DISK");
    if (to && of) {
        snprintf(folder, sizeof folder, "%s/queue.db", of);
        folder_length = strlen(folder);
        int opened = open(to, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        journal = fcntl(opened, F_DUPFD_CLOEXEC, 900); /* out of the way of programs that count descriptors */
        close(opened);
    }
    real_write = dlsym(RTLD_NEXT, "write");
}

/* The name of a database file by its path; 0 for any other, and for the log's index, which is made anew. */
static const char *ours(const char *path) {
    if (journal < 0 || strncmp(path, folder, folder_length)) return 0;
    const char *rest = path + folder_length;
    return *rest == 0 || !strcmp(rest, "-wal") || !strcmp(rest, "-journal") ? path + folder_length - 8 : 0;
}

static const char *ours_open(int fd, char *path) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return ours(path);
}

static uint64_t size(void) {
    struct stat state;
    return fstat(journal, &state) ? 0 : state.st_size;
}

static void note(int kind, const char *name, uint64_t offset, uint64_t length, uint64_t seen, const void *data) {
    struct record head = {0x51554555, kind, offset, length, seen, {0}};
    strncpy(head.name, name, sizeof head.name - 1);
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, data ? length : 0}};
    if (writev(journal, parts, data ? 2 : 1) < 0) abort();
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    char path[PATH_MAX];
    set_up();
    const char *name = journal < 0 ? 0 : ours_open(fd, path);
    if (name) note(WRITE, name, offset, length, 0, data);
    return real_pwrite(fd, data, length, offset);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

ssize_t write(int fd, const void *data, size_t length) {
    char path[PATH_MAX];
    set_up();
    const char *name = journal < 0 || fd < 3 ? 0 : ours_open(fd, path);
    if (name) note(WRITE, name, lseek(fd, 0, SEEK_CUR), length, 0, data);
    return real_write(fd, data, length);
}

static int sync_with(int (*real)(int), int fd) {
    char path[PATH_MAX];
    const char *name = journal < 0 ? 0 : ours_open(fd, path);
    uint64_t seen = name ? size() : 0;
    int result = real(fd);
    if (name && !result) note(SYNC, name, 0, 0, seen, 0);
    return result;
}
int fsync(int fd) { set_up(); return sync_with(real_fsync, fd); }
int fdatasync(int fd) { set_up(); return sync_with(real_fdatasync, fd); }

int ftruncate64(int fd, off64_t length) {
    char path[PATH_MAX];
    set_up();
    const char *name = journal < 0 ? 0 : ours_open(fd, path);
    if (name) note(TRUNCATE, name, length, 0, 0, 0);
    return real_ftruncate(fd, length);
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int unlink(const char *path) {
    set_up();
    const char *name = ours(path);
    if (name) note(UNLINK, name, 0, 0, 0, 0);
    return real_unlink(path);
}
