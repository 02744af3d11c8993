/* Writes down what a process writes and syncs below one directory, so that a power cut can be played afterwards.
 *
 * Loaded by LD_PRELOAD. POWERCUT_DIRECTORY is the directory, POWERCUT_JOURNAL the file that gets a record of each
 * change (journal.py reads it), POWERCUT_FAULTS, if set, a file of at least 12 bytes that is mapped: three 32-bit
 * numbers that a test may change at any time: the errno of each fsync, the errno of each write, and the milliseconds
 * that each fsync takes longer. 0 is no fault. No real fsync is made: what is durable is decided when the cut is played.
 * Files that end in -shm are left out: they are shared memory, which a power cut takes wholly.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 1, CREATE, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, SYNC_FAILED, UNLINK, RENAME, SYNC_DIRECTORY };

struct record {
    uint64_t time; /* ns of CLOCK_MONOTONIC */
    uint64_t file; /* inode */
    uint64_t offset; /* of a write; the size of a truncation; the number of a sync */
    uint32_t length; /* of the data that follows: bytes written, or the path */
    uint32_t kind;
} __attribute__((packed));

#define MOST_FDS 65536
static uint64_t files[MOST_FDS]; /* inode of an open file below the directory; 0: any other */
static char directories[MOST_FDS];
static char root[PATH_MAX];
static size_t root_length;
static int journal = -1;
static volatile int32_t *faults;
static uint64_t syncs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void)
{
    const char *directory = getenv("POWERCUT_DIRECTORY"), *path = getenv("POWERCUT_JOURNAL");
    if (!directory || !path || !realpath(directory, root)) return;
    root_length = strlen(root);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return;
    journal = fcntl(fd, F_DUPFD_CLOEXEC, 900);
    syscall(SYS_close, fd);
    const char *control = getenv("POWERCUT_FAULTS");
    if (control) {
        fd = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
        void *map = fd < 0 ? MAP_FAILED : mmap(NULL, 12, PROT_READ, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) faults = map;
        if (fd >= 0) syscall(SYS_close, fd);
    }
}

static int32_t fault(int number) { return faults ? faults[number] : 0; }

/* With the lock held. */
static void note(uint32_t kind, uint64_t file, uint64_t offset, const void *data, size_t length)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct record record = {now.tv_sec * 1000000000ull + now.tv_nsec, file, offset, length, kind};
    struct iovec parts[2] = {{&record, sizeof record}, {(void *)data, length}};
    ssize_t written = syscall(SYS_writev, journal, parts, length ? 2 : 1);
    if (written != (ssize_t)(sizeof record + length)) abort(); /* a journal with gaps would prove nothing */
}

/* The path below the directory, or NULL where it is not ours. */
static const char *ours(const char *path, char *buffer)
{
    if (journal < 0 || !path) return NULL;
    if (path[0] != '/') {
        if (!getcwd(buffer, PATH_MAX / 2)) return NULL;
        size_t length = strlen(buffer);
        if (length + strlen(path) + 2 > PATH_MAX) return NULL;
        buffer[length] = '/';
        strcpy(buffer + length + 1, path);
        path = buffer;
    }
    if (strncmp(path, root, root_length) || (path[root_length] != '/' && path[root_length])) return NULL;
    size_t length = strlen(path);
    if (length > 4 && !strcmp(path + length - 4, "-shm")) return NULL;
    return path[root_length] ? path + root_length + 1 : "";
}

static int opened(int at, const char *path, int flags, mode_t mode)
{
    char buffer[PATH_MAX];
    const char *name = at == AT_FDCWD || (path && path[0] == '/') ? ours(path, buffer) : NULL;
    if (!name) return syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    int existed = !syscall(SYS_faccessat, AT_FDCWD, path, F_OK);
    int fd = syscall(SYS_openat, at, path, flags, mode);
    int error = errno;
    if (fd >= 0 && fd < MOST_FDS) {
        struct stat state;
        fstat(fd, &state);
        if (S_ISDIR(state.st_mode)) {
            directories[fd] = 1;
        } else {
            files[fd] = state.st_ino;
            note(existed ? OPEN : CREATE, files[fd], 0, name, strlen(name));
            if (existed && flags & O_TRUNC) note(TRUNCATE, files[fd], 0, NULL, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE(flags, mode) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags, mode) return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags, mode) return opened(at, path, flags, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }
int __open_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }

int close(int fd)
{
    if (fd >= 0 && fd < MOST_FDS) {
        files[fd] = 0;
        directories[fd] = 0;
    }
    return syscall(SYS_close, fd);
}

static int is_ours(int fd) { return journal >= 0 && fd >= 0 && fd < MOST_FDS && files[fd]; }

static ssize_t written(int fd, const struct iovec *parts, int count, off_t offset, int positioned)
{
    int32_t error = fault(1);
    if (error) {
        errno = error;
        return -1;
    }
    pthread_mutex_lock(&lock);
    off_t place = offset;
    if (!positioned) {
        int flags = fcntl(fd, F_GETFL);
        struct stat state;
        place = flags & O_APPEND && !fstat(fd, &state) ? state.st_size : lseek(fd, 0, SEEK_CUR);
    }
    ssize_t done = positioned ? syscall(SYS_pwritev, fd, parts, count, (unsigned long)offset, 0ul)
                              : syscall(SYS_writev, fd, parts, count);
    int failed = errno;
    ssize_t left = done;
    for (int part = 0; part < count && left > 0; part++) {
        size_t length = parts[part].iov_len < (size_t)left ? parts[part].iov_len : (size_t)left;
        if (length) note(WRITE, files[fd], place, parts[part].iov_base, length);
        place += length;
        left -= length;
    }
    pthread_mutex_unlock(&lock);
    errno = failed;
    return done;
}

ssize_t write(int fd, const void *data, size_t length)
{
    if (!is_ours(fd)) return syscall(SYS_write, fd, data, length);
    struct iovec part = {(void *)data, length};
    return written(fd, &part, 1, 0, 0);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    if (!is_ours(fd)) return syscall(SYS_pwrite64, fd, data, length, offset);
    struct iovec part = {(void *)data, length};
    return written(fd, &part, 1, offset, 1);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return is_ours(fd) ? written(fd, parts, count, 0, 0) : syscall(SYS_writev, fd, parts, count);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    return is_ours(fd) ? written(fd, parts, count, offset, 1)
                       : syscall(SYS_pwritev, fd, parts, count, (unsigned long)offset, 0ul);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev64(fd, parts, count, offset); }

int ftruncate64(int fd, off64_t size)
{
    if (!is_ours(fd)) return syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    int result = syscall(SYS_ftruncate, fd, size);
    int error = errno;
    if (!result) note(TRUNCATE, files[fd], size, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int synced(int fd)
{
    pthread_mutex_lock(&lock);
    uint64_t file = files[fd], number = (uint64_t)getpid() << 32 | ++syncs;
    int directory = directories[fd];
    if (!directory) note(SYNC_BEGIN, file, number, NULL, 0);
    pthread_mutex_unlock(&lock);
    int32_t wait = fault(2), error = fault(0);
    if (wait) {
        struct timespec pause = {wait / 1000, wait % 1000 * 1000000l};
        nanosleep(&pause, NULL);
    }
    pthread_mutex_lock(&lock);
    if (directory) {
        if (!error) note(SYNC_DIRECTORY, 0, 0, NULL, 0);
    } else {
        note(error ? SYNC_FAILED : SYNC_END, file, number, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return error ? -1 : 0;
}

static int is_synced_here(int fd) { return is_ours(fd) || (journal >= 0 && fd >= 0 && fd < MOST_FDS && directories[fd]); }
int fsync(int fd) { return is_synced_here(fd) ? synced(fd) : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return is_synced_here(fd) ? synced(fd) : syscall(SYS_fdatasync, fd); }

int unlink(const char *path)
{
    char buffer[PATH_MAX];
    const char *name = ours(path, buffer);
    if (!name) return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&lock);
    int result = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    int error = errno;
    if (!result) note(UNLINK, 0, 0, name, strlen(name));
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int rename(const char *from, const char *to)
{
    char one[PATH_MAX], other[PATH_MAX], both[2 * PATH_MAX];
    const char *source = ours(from, one), *target = ours(to, other);
    if (!source || !target) return syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    pthread_mutex_lock(&lock);
    int result = syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    int error = errno;
    if (!result) {
        size_t length = strlen(source);
        strcpy(both, source);
        strcpy(both + length + 1, target);
        note(RENAME, 0, 0, both, length + 1 + strlen(target));
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
