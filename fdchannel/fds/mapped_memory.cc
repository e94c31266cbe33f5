// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/mapped_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "fdchannel/fds/fd_facts.h"

// Linux 6.3, newer than Debian 12's headers: never executable. Kernels can be told to refuse memfds
// without it (vm.memfd_noexec, Documentation/userspace-api/mfd_noexec.rst).
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace grpcfd {
namespace {

constexpr uint32_t kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;

absl::Status MemoryError(int error, const std::string& what) {
  const std::string text = absl::StrCat(what, ": ", strerror(error));
  switch (error) {
    case ENOMEM:
    case EAGAIN:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
    // From MADV_POPULATE_*: a page could not be had.
    case EFAULT:
      return absl::ResourceExhaustedError(text);
    case EINVAL:
    case EFBIG:
    case EBADF:
      return absl::InvalidArgumentError(text);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(text);
    default:
      return absl::ErrnoToStatus(error, what);
  }
}

// The seals of `fd`, or why it has none to look at.
absl::StatusOr<uint32_t> Seals(BorrowedFd fd) {
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals >= 0) return static_cast<uint32_t>(seals);
  const int error = errno;
  if (error == EBADF) {
    // Also what an O_PATH handle says.
    const int flags = ::fcntl(fd.get(), F_GETFL);
    if (flags >= 0 && (flags & O_PATH) != 0) {
      return absl::PermissionDeniedError(
          "expected a memfd to map, got an O_PATH handle, which cannot be mapped");
    }
    return absl::InvalidArgumentError(
        absl::StrCat("expected a memfd to map, but the number ", fd.get(), " is closed"));
  }
  DevIno dev_ino;
  internal::FdFacts facts;
  internal::LookAt(fd, internal::kLookType | internal::kLookKind, &dev_ino, &facts);
  return absl::InvalidArgumentError(
      absl::StrCat("expected a memfd to map, got a ", ToString(facts.type),
                   " that cannot be sealed: its owner could truncate it, which is SIGBUS here"));
}

absl::StatusOr<uint64_t> Size(BorrowedFd fd) {
  struct stat attributes;
  if (::fstat(fd.get(), &attributes) != 0) return MemoryError(errno, "fstat of a memfd");
  return static_cast<uint64_t>(attributes.st_size);
}

absl::StatusOr<UniqueFd> NewMemfd(const std::string& name) {
  UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL));
  if (!fd.valid() && errno == EINVAL) {  // An older kernel, or the name.
    fd.Reset(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  }
  if (!fd.valid()) return MemoryError(errno, "memfd_create");
  return fd;
}

absl::Status CheckNewSize(uint64_t size) {
  if (size == 0 || size > static_cast<uint64_t>(std::numeric_limits<off_t>::max())) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory of ", size, " bytes cannot be made: expected 1 to 2^63 - 1"));
  }
  return absl::OkStatus();
}

absl::Status AddSeals(BorrowedFd fd, uint32_t seals) {
  if (::fcntl(fd.get(), F_ADD_SEALS, static_cast<int>(seals)) == 0) return absl::OkStatus();
  const int error = errno;
  const std::string text =
      absl::StrCat("adding ", internal::SealNames(seals), ": ", strerror(error));
  switch (error) {
    case EBUSY:
      return absl::FailedPreconditionError(
          absl::StrCat(text, ": a mapping for writing exists, in this process or another"));
    case EPERM:
      return absl::FailedPreconditionError(
          absl::StrCat(text, ": the memory was sealed against more seals; was it shared before?"));
    case EINVAL:
      return absl::UnimplementedError(absl::StrCat(text, ": this kernel does not know them all"));
    default:
      return absl::ErrnoToStatus(error, text);
  }
}

// The size of the memory, which is sealed as `options` want it and has a size that they allow; and
// whether it is sealed against writing.
absl::StatusOr<uint64_t> CheckedSize(BorrowedFd fd, uint64_t max_size,
                                     const MappedMemory::MapOptions& options, bool* write_sealed) {
  // Seals first: what they say holds from here on, so the size that is read next is final.
  const absl::StatusOr<uint32_t> seals = Seals(fd);
  if (!seals.ok()) return seals.status();
  const uint32_t required =
      kSizeSeals | F_SEAL_SEAL | options.more_seals | (options.frozen ? uint32_t{F_SEAL_WRITE} : 0);
  if ((*seals & required) != required) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the memory is not sealed as it must be: it has ", internal::SealNames(*seals),
        ", missing is ", internal::SealNames(required & ~*seals),
        "; the sender must add it before it sends (MappedMemory::Freeze, Share or FromBytes)"));
  }
  // Only tmpfs and hugetlbfs know seals, so this asks no other file system, and cannot hang.
  struct statfs filesystem;
  if (::fstatfs(fd.get(), &filesystem) != 0) return MemoryError(errno, "fstatfs of a memfd");
  if (static_cast<uint32_t>(filesystem.f_type) == HUGETLBFS_MAGIC) {
    return absl::InvalidArgumentError(
        "a memfd of huge pages (MFD_HUGETLB) is not mapped: they come from a pool that can run "
        "dry, which is SIGBUS whatever the seals");
  }
  const absl::StatusOr<uint64_t> size = Size(fd);
  if (!size.ok()) return size.status();
  const uint64_t least = std::max<uint64_t>(1, options.min_size);
  if (*size < least || *size > max_size) {
    return absl::OutOfRangeError(
        absl::StrFormat("the memory has %d bytes, expected are %d to %d", *size, least, max_size));
  }
  if (*size > static_cast<uint64_t>(std::numeric_limits<ptrdiff_t>::max())) {
    return absl::OutOfRangeError(absl::StrFormat("%d bytes do not fit this address space", *size));
  }
  *write_sealed = (*seals & F_SEAL_WRITE) != 0;
  return *size;
}

}  // namespace

absl::StatusOr<MappedMemory> MappedMemory::Map(BorrowedFd fd, uint64_t max_size) {
  return Map(fd, max_size, MapOptions());
}

absl::StatusOr<MappedMemory> MappedMemory::Map(BorrowedFd fd, uint64_t max_size,
                                               const MapOptions& options) {
  if (options.frozen && options.writable) {
    return absl::InvalidArgumentError(
        "MapOptions: writable memory cannot be frozen; set frozen = false");
  }
  bool sealed = false;
  const absl::StatusOr<uint64_t> size = CheckedSize(fd, max_size, options, &sealed);
  if (!size.ok()) return size.status();

  // Kernels before 6.7 refuse to share a write-sealed file, even for reading only. A private
  // mapping that is never written to is the same memory.
  int flags = sealed && !options.writable ? MAP_PRIVATE : MAP_SHARED;
  if (options.populate) flags |= MAP_POPULATE;
  const int protection = PROT_READ | (options.writable ? PROT_WRITE : 0);
  void* const data = ::mmap(nullptr, *size, protection, flags, fd.get(), 0);
  if (data == MAP_FAILED) {
    const int error = errno;
    return MemoryError(error, absl::StrCat("mmap of ", *size, " bytes for ",
                                           options.writable ? "reading and writing" : "reading"));
  }
  MappedMemory memory(data, *size, options.writable, UniqueFd());
  // Seals cannot be taken away, so this can only find a kernel that is broken. It costs little.
  const absl::StatusOr<uint64_t> again = Size(fd);
  if (!again.ok() || *again != *size) {
    return absl::FailedPreconditionError(absl::StrCat("the size of sealed memory changed from ",
                                                      *size, " bytes while it was mapped"));
  }
  if (options.populate) {
    // mmap keeps quiet about pages that it could not bring in.
    const int advice = options.writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
    if (::madvise(data, *size, advice) != 0 && errno != EINVAL) {
      return MemoryError(errno, absl::StrCat("bringing in ", *size, " bytes"));
    }
  }
  return memory;
}

absl::StatusOr<MappedMemory> MappedMemory::Create(uint64_t size, const std::string& name) {
  absl::Status status = CheckNewSize(size);
  if (!status.ok()) return status;
  absl::StatusOr<UniqueFd> fd = NewMemfd(name);
  if (!fd.ok()) return fd.status();
  if (::ftruncate(fd->get(), static_cast<off_t>(size)) != 0) {
    return MemoryError(errno, absl::StrCat("ftruncate to ", size, " bytes"));
  }
  status = AddSeals(*fd, kSizeSeals);
  if (!status.ok()) return status;
  void* const data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd->get(), 0);
  if (data == MAP_FAILED) return MemoryError(errno, absl::StrCat("mmap of ", size, " bytes"));
  return MappedMemory(data, size, /*writable=*/true, *std::move(fd));
}

absl::StatusOr<UniqueFd> MappedMemory::FromBytes(const void* bytes, uint64_t size,
                                                 const std::string& name) {
  absl::Status status = CheckNewSize(size);
  if (!status.ok()) return status;
  absl::StatusOr<UniqueFd> fd = NewMemfd(name);
  if (!fd.ok()) return fd.status();
  // Written, not mapped: running out of memory is an error then, not a signal.
  const char* const from = static_cast<const char*>(bytes);
  for (uint64_t done = 0; done < size;) {
    const ssize_t wrote = ::pwrite(fd->get(), from + done, size - done, static_cast<off_t>(done));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) {
      return MemoryError(wrote < 0 ? errno : ENOSPC, absl::StrCat("writing ", size, " bytes"));
    }
    done += static_cast<uint64_t>(wrote);
  }
  status = AddSeals(*fd, kSizeSeals | F_SEAL_WRITE | F_SEAL_SEAL);
  if (!status.ok()) return status;
  return fd;
}

absl::StatusOr<UniqueFd> MappedMemory::Freeze() && {
  UniqueFd fd = std::move(fd_);
  Unmap();
  if (!fd.valid()) {
    return absl::FailedPreconditionError("only memory from MappedMemory::Create can be frozen");
  }
  absl::Status status = AddSeals(fd, F_SEAL_WRITE | F_SEAL_SEAL);
  if (!status.ok()) return status;
  return fd;
}

absl::StatusOr<UniqueFd> MappedMemory::Share(PeerAccess peer) {
  const bool peer_writes = peer == PeerAccess::kReadWrite;
  if (!fd_.valid()) {
    return absl::FailedPreconditionError("only memory from MappedMemory::Create can be shared");
  }
  const absl::StatusOr<uint32_t> seals = Seals(fd_);
  if (!seals.ok()) return seals.status();
  const bool peer_may_write = (*seals & F_SEAL_FUTURE_WRITE) == 0;
  if ((*seals & F_SEAL_SEAL) == 0) {
    const absl::Status status =
        AddSeals(fd_, F_SEAL_SEAL | (peer_writes ? 0 : uint32_t{F_SEAL_FUTURE_WRITE}));
    if (!status.ok()) return status;
  } else if (peer_may_write != peer_writes) {
    return absl::FailedPreconditionError(absl::StrCat("the memory was shared with peers that may ",
                                                      peer_may_write ? "" : "not ",
                                                      "write; make another one for the rest"));
  }
  return BorrowedFd(fd_).Dup();
}

MappedMemory& MappedMemory::operator=(MappedMemory&& other) noexcept {
  if (this != &other) {
    Unmap();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    writable_ = std::exchange(other.writable_, false);
    fd_ = std::move(other.fd_);
  }
  return *this;
}

void MappedMemory::Unmap() {
  if (data_ != nullptr) ::munmap(data_, size_);
  data_ = nullptr;
  size_ = 0;
  writable_ = false;
}

}  // namespace grpcfd
