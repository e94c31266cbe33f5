// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Lists the descriptors that it inherited, but for the standard streams: one line each. A program
// of its own, without gRPC, because rows execute it ten thousand times.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main() {
  DIR* const dir = opendir("/proc/self/fd");
  if (dir == nullptr) return 1;
  while (const dirent* entry = readdir(dir)) {
    const int fd = atoi(entry->d_name);
    if (entry->d_name[0] == '.' || fd <= 2 || fd == dirfd(dir)) continue;
    char target[256];
    const ssize_t length = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target));
    printf("%d %.*s\n", fd, length < 0 ? 0 : static_cast<int>(length), target);
  }
  closedir(dir);
  return 0;
}
