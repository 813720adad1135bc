/* Kills this process at its n-th change of a folder, or fills its disk from there on.

   Loaded with LD_PRELOAD it counts every call that changes something under `root`: writes, truncations,
   renames, new and removed files and folders, and fsync. `fault_arm` says what happens at which of them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, KILL_HALFWAY, FULL };

static char root[PATH_MAX];
static size_t root_length;
static atomic_long seen;
static long due;
static int mode;

void fault_arm(const char *folder, long at, int what) {
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    seen = 0;
    due = at;
    mode = what;
}

long fault_seen(void) { return seen; }

static int path_concerns_us(int folder, const char *path) {
    char where[PATH_MAX];
    if (!root_length) return 0;
    if (path[0] == '/') return !strncmp(path, root, root_length);
    if (folder == AT_FDCWD) return getcwd(where, sizeof where) && !strncmp(where, root, root_length);
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, where, sizeof where - 1);
    if (length < 0) return 0;
    where[length] = 0;
    return !strncmp(where, root, root_length);
}

static int file_concerns_us(int file) {
    struct stat about;
    return root_length && !fstat(file, &about) && (S_ISREG(about.st_mode) || S_ISDIR(about.st_mode)) &&
           path_concerns_us(file, "");
}

/* What to do now: 0 go on, 1 half of it (then the next call decides), -1 the disk is full. */
static int step(int takes_room, int can_be_halved) {
    long now = ++seen;
    if (mode == COUNT || now < due) return 0;
    if (mode == KILL) kill(getpid(), SIGKILL);
    if (mode == KILL_HALFWAY) {
        if (now > due || !can_be_halved) kill(getpid(), SIGKILL);
        return 1;
    }
    if (!takes_room) return 0;
    return now == due && can_be_halved ? 1 : -1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FULL_DISK return errno = ENOSPC, -1

ssize_t write(int file, const void *data, size_t size) {
    int what = file_concerns_us(file) ? step(1, size > 1) : 0;
    if (what < 0) FULL_DISK;
    return NEXT(write)(file, data, what ? size / 2 : size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    int what = file_concerns_us(file) ? step(1, size > 1) : 0;
    if (what < 0) FULL_DISK;
    return NEXT(pwrite)(file, data, what ? size / 2 : size, at);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) { return pwrite(file, data, size, at); }

ssize_t writev(int file, const struct iovec *parts, int count) {
    int what = file_concerns_us(file) ? step(1, parts[0].iov_len > 1) : 0;
    if (what < 0) FULL_DISK;
    if (what) return NEXT(write)(file, parts[0].iov_base, parts[0].iov_len / 2);
    return NEXT(writev)(file, parts, count);
}

ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    int what = file_concerns_us(to) ? step(1, 1) : 0;
    if (what < 0) FULL_DISK;
    return NEXT(sendfile)(to, from, at, what ? 100 : size);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { return sendfile(to, from, at, size); }

int fsync(int file) {
    if (file_concerns_us(file) && step(0, 0) < 0) FULL_DISK;
    return NEXT(fsync)(file);
}

int ftruncate(int file, off_t size) {
    if (file_concerns_us(file) && step(1, 0) < 0) FULL_DISK;
    return NEXT(ftruncate)(file, size);
}

int ftruncate64(int file, off64_t size) { return ftruncate(file, size); }

int rename(const char *old, const char *new) {
    if (path_concerns_us(AT_FDCWD, new)) step(0, 0);
    return NEXT(rename)(old, new);
}

int renameat2(int a, const char *old, int b, const char *new, unsigned flags) {
    if (path_concerns_us(b, new)) step(0, 0);
    return NEXT(renameat2)(a, old, b, new, flags);
}

int mkdir(const char *path, mode_t rights) {
    if (path_concerns_us(AT_FDCWD, path) && step(1, 0) < 0) FULL_DISK;
    return NEXT(mkdir)(path, rights);
}

int unlink(const char *path) {
    if (path_concerns_us(AT_FDCWD, path)) step(0, 0);
    return NEXT(unlink)(path);
}

int unlinkat(int folder, const char *path, int flags) {
    if (path_concerns_us(folder, path)) step(0, 0);
    return NEXT(unlinkat)(folder, path, flags);
}

int rmdir(const char *path) {
    if (path_concerns_us(AT_FDCWD, path)) step(0, 0);
    return NEXT(rmdir)(path);
}

static int open_file(int folder, const char *path, int flags, mode_t rights) {
    if ((flags & (O_CREAT | O_TRUNC)) && path_concerns_us(folder, path)) {
        /* a full disk still opens and empties the files that are there */
        int takes_room = faccessat(folder, path, F_OK, 0) != 0;
        if (step(takes_room, 0) < 0) FULL_DISK;
    }
    return NEXT(openat)(folder, path, flags, rights);
}

#define RIGHTS(flags, last)                                   \
    mode_t rights = 0;                                        \
    if (flags & O_CREAT) {                                    \
        va_list more;                                         \
        va_start(more, last);                                 \
        rights = va_arg(more, mode_t);                        \
        va_end(more);                                         \
    }

int open(const char *path, int flags, ...) {
    RIGHTS(flags, flags)
    return open_file(AT_FDCWD, path, flags, rights);
}

int open64(const char *path, int flags, ...) {
    RIGHTS(flags, flags)
    return open_file(AT_FDCWD, path, flags, rights);
}

int openat(int folder, const char *path, int flags, ...) {
    RIGHTS(flags, flags)
    return open_file(folder, path, flags, rights);
}

int openat64(int folder, const char *path, int flags, ...) {
    RIGHTS(flags, flags)
    return open_file(folder, path, flags, rights);
}
