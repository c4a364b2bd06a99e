/*
 * A disk that fails on command.
 *
 * Preloaded into the server (LD_PRELOAD), it stands between SQLite and the kernel for the files of the database alone, so that the tests meet the
 * errors of a real disk without a change to the server. Built by the tests themselves: cc -shared -fPIC disk.c -o disk.so
 *
 * CHATIFY_FAULT_CONTROL names a file of one page: its first byte says what fails now (see `enum fault`), the 8 bytes at offset 8 count what was made
 * to fail. CHATIFY_FAULT_JOURNAL names a file that tells what a power cut could take away: each write with the bytes before and after it, and
 * each sync. The tests read it after they have killed the server, and take away what was not synced.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum fault {
    NO_ROOM = 'F',        /* Every write fails with ENOSPC, as on file systems that write elsewhere than where they read. */
    NO_ROOM_TO_GROW = 'G', /* Writes that make a file longer fail with ENOSPC. */
    SYNC = 'S',           /* Every sync fails with EIO, and what it should have kept is lost. */
    SYNC_ONCE = 's',      /* The next one does, and those after it pretend that nothing happened, as the kernel's do. */
    SYNC_DATABASE = 'D',  /* The next one of the database file itself does: a checkpoint's. */
    LIE = 'L',            /* Syncs say that they have been done, and are not. */
    READ = 'R',           /* Every read of the database file and its write-ahead log fails with EIO. */
};

/* INDEX is shared memory that does not outlive the power; it can only fail to grow. */
enum file { DATABASE, LOG, INDEX, OTHER };

struct control {
    _Atomic unsigned char fault;
    unsigned char unused[7];
    _Atomic uint64_t injected;
};

struct entry {
    uint64_t kind; /* 'W' write, 'T' truncation, 'S' synced, 'L' lost by a failed sync. */
    uint64_t file;
    uint64_t sequence; /* Of 'S' and 'L': everything of the file up to here. */
    uint64_t offset;
    uint64_t size_before;
    uint64_t old_length;
    uint64_t new_length;
    /* Followed by the old bytes and the new ones. */
};

static struct control nothing_fails;
static struct control *control = &nothing_fails;
static int journal = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t sequence;
static uint64_t written[OTHER];
static uint64_t synced[OTHER];
/* A sync has failed. Never forgotten: the journal then keeps everything until the test has looked. */
static int lost;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("CHATIFY_FAULT_CONTROL");
    if (path != NULL) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        void *page = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (page == MAP_FAILED) abort();
        control = page;
        close(fd);
    }
    path = getenv("CHATIFY_FAULT_JOURNAL");
    if (path != NULL) {
        journal = open(path, O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (journal < 0) abort();
    }
}

static enum file which(int fd) {
    char link[40], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return OTHER;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    if (name == NULL) return OTHER;
    if (strcmp(name, "/chatify.db") == 0) return DATABASE;
    if (strcmp(name, "/chatify.db-wal") == 0) return LOG;
    return strcmp(name, "/chatify.db-shm") == 0 ? INDEX : OTHER;
}

static int fails(int error) {
    atomic_fetch_add(&control->injected, 1);
    errno = error;
    return -1;
}

static uint64_t size_of(int fd) {
    struct stat state;
    if (fstat(fd, &state) != 0) abort();
    return (uint64_t)state.st_size;
}

static void record(const void *bytes, size_t length) {
    while (length > 0) {
        ssize_t done = syscall(SYS_write, journal, bytes, length);
        if (done < 0) abort(); /* A journal with holes would accuse the server of what the test did. */
        bytes = (const char *)bytes + done;
        length -= (size_t)done;
    }
}

/* Notes that [offset, offset + new_length) of the file becomes `new_bytes`, or, for a truncation, that the file ends at `offset`. Written before the
 * file is: when the process is killed between the two, taking the change away changes nothing. A write that nobody can read back (the descriptor may
 * be for writing only) is read through /proc. */
static void note_change(char kind, enum file file, int fd, uint64_t offset, const void *new_bytes, size_t new_length) {
    if (journal < 0) return;
    uint64_t size = size_of(fd);
    uint64_t end = kind == 'T' ? size : offset + new_length;
    if (end > size) end = size;
    struct entry entry = {(uint64_t)kind, file, ++sequence, offset, size, end > offset ? end - offset : 0, new_length};
    char *old_bytes = malloc(entry.old_length + 1);
    if (entry.old_length > 0) {
        char link[40];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int reader = open(link, O_RDONLY | O_CLOEXEC);
        if (reader < 0 || syscall(SYS_pread64, reader, old_bytes, entry.old_length, offset) != (long)entry.old_length) abort();
        syscall(SYS_close, reader);
    }
    written[file] = sequence;
    record(&entry, sizeof entry);
    record(old_bytes, entry.old_length);
    record(new_bytes, new_length);
    free(old_bytes);
}

static void note_sync(char kind, enum file file, uint64_t upto) {
    if (journal < 0) return;
    struct entry entry = {(uint64_t)kind, file, upto, 0, 0, 0, 0};
    record(&entry, sizeof entry);
    if (kind == 'L') lost = 1;
    else if (synced[file] < upto) synced[file] = upto;
    int whole = !lost && written[DATABASE] <= synced[DATABASE] && written[LOG] <= synced[LOG];
    /* With nothing left that could be taken away, the journal begins anew. */
    if (whole && ftruncate(journal, 0) != 0) abort();
}

static int has_no_room(int fd, uint64_t offset, size_t length) {
    unsigned char fault = atomic_load(&control->fault);
    return fault == NO_ROOM || (fault == NO_ROOM_TO_GROW && offset + length > size_of(fd));
}

static ssize_t put(int fd, const void *bytes, size_t length, off_t at, int positioned) {
    enum file file = which(fd);
    if (file == OTHER) return positioned ? syscall(SYS_pwrite64, fd, bytes, length, at) : syscall(SYS_write, fd, bytes, length);
    ssize_t done;
    /* Under the lock, so that a sync that begins later covers all of it. */
    pthread_mutex_lock(&lock);
    uint64_t offset = (uint64_t)(positioned ? at : lseek(fd, 0, SEEK_CUR));
    if (has_no_room(fd, offset, length)) {
        done = fails(ENOSPC);
    } else {
        if (file != INDEX) note_change('W', file, fd, offset, bytes, length);
        done = positioned ? syscall(SYS_pwrite64, fd, bytes, length, at) : syscall(SYS_write, fd, bytes, length);
        if (journal >= 0 && done != (ssize_t)length) abort();
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t length) { return put(fd, bytes, length, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return put(fd, bytes, length, offset, 1); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) { return put(fd, bytes, length, offset, 1); }

static int cut(int fd, off_t size) {
    enum file file = which(fd);
    if (file == OTHER || file == INDEX) return (int)syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    note_change('T', file, fd, (uint64_t)size, NULL, 0);
    int outcome = (int)syscall(SYS_ftruncate, fd, size);
    pthread_mutex_unlock(&lock);
    return outcome;
}

int ftruncate64(int fd, off64_t size) { return cut(fd, size); }

static int sync_fails(enum file file) {
    unsigned char fault = atomic_load(&control->fault);
    if (fault == SYNC) return 1;
    if (fault != SYNC_ONCE && !(fault == SYNC_DATABASE && file == DATABASE)) return 0;
    atomic_store(&control->fault, 0);
    return 1;
}

static int sync_file(int fd, long number) {
    enum file file = which(fd);
    if (file == OTHER || file == INDEX) return (int)syscall(number, fd);
    if (atomic_load(&control->fault) == LIE) return 0;
    pthread_mutex_lock(&lock);
    uint64_t upto = sequence;
    int failing = sync_fails(file);
    if (failing) note_sync('L', file, upto);
    pthread_mutex_unlock(&lock);
    if (failing) return fails(EIO);
    int outcome = (int)syscall(number, fd);
    if (outcome == 0) {
        pthread_mutex_lock(&lock);
        note_sync('S', file, upto);
        pthread_mutex_unlock(&lock);
    }
    return outcome;
}

int fsync(int fd) { return sync_file(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }

static ssize_t get(int fd, void *bytes, size_t length, off_t at, int positioned) {
    if (atomic_load(&control->fault) == READ) {
        enum file file = which(fd);
        if (file == DATABASE || file == LOG) return fails(EIO);
    }
    return positioned ? syscall(SYS_pread64, fd, bytes, length, at) : syscall(SYS_read, fd, bytes, length);
}

ssize_t read(int fd, void *bytes, size_t length) { return get(fd, bytes, length, 0, 0); }
ssize_t pread(int fd, void *bytes, size_t length, off_t offset) { return get(fd, bytes, length, offset, 1); }
ssize_t pread64(int fd, void *bytes, size_t length, off64_t offset) { return get(fd, bytes, length, offset, 1); }
