// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// MappedMemory: memory that two processes share by passing a memfd, without trusting each other.
//
// Mapping a file that another process can truncate lets that process crash this one: reading beyond
// the end of a mapped file raises SIGBUS. memfd seals (memfd_create(2), fcntl(2)) prevent it: once
// F_SEAL_SHRINK is set, nobody can make the file shorter again. Seals are only ever added, so a
// check that finds them holds for good. Map() checks the seals, then the size, against a largest
// size that has no default: reading a hole of a sparse memfd allocates the page at the reader's
// expense.
//
// Content is safe to use after a check only if it is sealed against writing as well (F_SEAL_WRITE,
// MapOptions::frozen). F_SEAL_FUTURE_WRITE is not enough: mappings that exist go on writing. Files
// other than memfds do not have seals, and are refused.
//
//   // The producer.
//   auto memory = MappedMemory::Create(size);
//   memcpy(memory->writable_data(), ...);
//   auto frozen = std::move(*memory).Freeze();      // Nobody can change it any more.
//   auto url = fds->SendFd(*std::move(frozen));
//
//   // The consumer.
//   auto fd = fds->RecvFd(request->memory_url());
//   auto memory = MappedMemory::Map(*fd, /*max_size=*/16 << 20);
//   Parse(memory->data(), memory->size());           // Stays as it is, whatever the peer does.
#ifndef GRPCFD_MAPPED_MEMORY_H_
#define GRPCFD_MAPPED_MEMORY_H_

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {

// A mapping of a whole memfd, unmapped by the destructor. Move-only. Thread-compatible; what it
// points to is as safe as the threads and processes that use it agree on.
class MappedMemory {
 public:
  // What a receiver of shared memory may do with it.
  enum class PeerAccess { kReadOnly, kReadWrite };

  struct MapOptions {
    // Whether the content must stay as it is (F_SEAL_WRITE). If not, the peer may change it at any
    // moment: read each byte once, into memory of your own, before you check it.
    bool frozen = true;
    // Map for writing. Only with frozen = false, and for a descriptor that was opened read-write.
    bool writable = false;
    // In bytes.
    uint64_t min_size = 1;
    // F_SEAL_* that must be there besides F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL.
    uint32_t more_seals = 0;
    // Bring all pages in now: the first access to each is quick, and (since Linux 5.14) too little
    // memory is an error here instead of a signal later. Allocates the holes of a sparse file.
    bool populate = false;
  };

  // Maps the memfd `fd`, checked so that no peer can make an access to [data(), data() + size())
  // fail, or, if `frozen`, change what is read there. The mapping does not need `fd` any longer.
  //   INVALID_ARGUMENT     `fd` is closed, or a file that cannot be sealed, or a memfd of huge
  //                        pages (MFD_HUGETLB); or the options contradict each other
  //   FAILED_PRECONDITION  a seal is missing; the text names those there and those missing. So it
  //                        is for a file of a tmpfs, which can never get them
  //   OUT_OF_RANGE         smaller than min_size or larger than `max_size` bytes
  //   PERMISSION_DENIED    opened write-only or O_PATH, or read-only when `writable` was asked for
  //   RESOURCE_EXHAUSTED   no memory, or no address space
  static absl::StatusOr<MappedMemory> Map(BorrowedFd fd, uint64_t max_size,
                                          const MapOptions& options);
  static absl::StatusOr<MappedMemory> Map(BorrowedFd fd, uint64_t max_size);

  // New memory of `size` bytes, all zero, mapped for writing, of a fixed size (F_SEAL_SHRINK and
  // F_SEAL_GROW). `name` is for /proc/<pid>/maps, at most 249 bytes.
  //   INVALID_ARGUMENT     `size` is 0 or more than a file may have, or `name` is too long
  //   RESOURCE_EXHAUSTED   no memory, no address space, or RLIMIT_NOFILE
  static absl::StatusOr<MappedMemory> Create(uint64_t size, const std::string& name = "grpcfd");

  // A sealed descriptor that holds a copy of these bytes, ready to be sent; nobody can change them.
  // Errors as Create.
  static absl::StatusOr<UniqueFd> FromBytes(const void* bytes, uint64_t size,
                                            const std::string& name = "grpcfd");

  // Ends the writing: unmaps, adds F_SEAL_WRITE and F_SEAL_SEAL, and gives the descriptor up to be
  // sent (and mapped, with Map). Only of memory from Create().
  //   FAILED_PRECONDITION  it is not from Create(), was shared already, or is also mapped for
  //                        writing elsewhere
  absl::StatusOr<UniqueFd> Freeze() &&;

  // A descriptor to send while this side goes on writing; the receiver maps it with frozen = false.
  // With kReadOnly the peer cannot write (F_SEAL_FUTURE_WRITE, Linux 5.1), and this mapping is the
  // last one that can. Adds F_SEAL_SEAL, so that the peer cannot add seals of its
  // own; asked again, it must be for the same kind of sharing.
  //   FAILED_PRECONDITION  it is not from Create(), or was shared in the other way already
  //   UNIMPLEMENTED        the kernel is older than Linux 5.1
  //   RESOURCE_EXHAUSTED   RLIMIT_NOFILE
  absl::StatusOr<UniqueFd> Share(PeerAccess peer);

  MappedMemory(MappedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        writable_(std::exchange(other.writable_, false)),
        fd_(std::move(other.fd_)) {}
  MappedMemory& operator=(MappedMemory&& other) noexcept;
  ~MappedMemory() { Unmap(); }

  // The first byte; page-aligned. Null after a move or Freeze().
  const void* data() const { return data_; }
  // The same, or null if it is not mapped for writing.
  void* writable_data() const { return writable_ ? data_ : nullptr; }
  size_t size() const { return size_; }

 private:
  MappedMemory(void* data, size_t size, bool writable, UniqueFd fd)
      : data_(data), size_(size), writable_(writable), fd_(std::move(fd)) {}
  void Unmap();

  void* data_;
  size_t size_;
  bool writable_;
  UniqueFd fd_;  // Of memory from Create().
};

}  // namespace grpcfd

#endif  // GRPCFD_MAPPED_MEMORY_H_
