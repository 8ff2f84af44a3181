/* What a process of the product is told by its C library, bent by a test: loaded with LD_PRELOAD.
 *
 * CHAOS_CLOCK names a file with seconds that are added to the time of day; clocks that only count go on
 * as they do. CHAOS_FULL names a file: while it exists, writes to files below the folder CHAOS_DISK fail as
 * on a full disk. Needs no right to mount anything, so it does the same in every container. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(id, t);
  const char *path = getenv("CHAOS_CLOCK");
  if (id == CLOCK_REALTIME && path) {
    FILE *file = fopen(path, "r");
    long seconds = 0;
    if (file) {
      if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
      fclose(file);
    }
    t->tv_sec += seconds;
  }
  return done;
}

static int is_full(int fd) {
  const char *flag = getenv("CHAOS_FULL"), *disk = getenv("CHAOS_DISK");
  if (!flag || !disk || access(flag, F_OK) != 0) return 0;
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strncmp(path, disk, strlen(disk)) == 0;
}

#define BENT(type, name, parameters, arguments)                           \
  type name parameters {                                                  \
    static type(*real) parameters;                                        \
    if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name);        \
    if (is_full(fd)) {                                                    \
      errno = ENOSPC;                                                     \
      return -1;                                                          \
    }                                                                     \
    return real arguments;                                                \
  }

BENT(ssize_t, write, (int fd, const void *bytes, size_t count), (fd, bytes, count))
BENT(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
BENT(ssize_t, pwrite, (int fd, const void *bytes, size_t count, off_t at), (fd, bytes, count, at))
BENT(ssize_t, pwrite64, (int fd, const void *bytes, size_t count, off64_t at), (fd, bytes, count, at))
