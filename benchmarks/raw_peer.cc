// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "benchmarks/peer.h"

namespace grpcfd {
namespace benchmarks {
namespace {

constexpr size_t kMaxFds = 253;      // SCM_MAX_FD of the kernel.
constexpr size_t kMessageSize = 64;  // As a frame of grpcfd.

// Sends one message; `text` is cut or padded to a message's size for calls, sent whole otherwise.
void Send(const UniqueFd& socket, const std::string& text, const std::vector<UniqueFd>& fds) {
  iovec data{const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control;
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    int* out = reinterpret_cast<int*>(CMSG_DATA(header));
    for (const UniqueFd& fd : fds) *out++ = fd.get();
  }
  if (::sendmsg(socket.get(), &message, MSG_NOSIGNAL) < 0) Die("sendmsg");
}

// One message, empty at the end. Calls `visit` for each descriptor, which is closed after that.
template <typename Visit>
std::string Receive(const UniqueFd& socket, std::array<char, 65536>* buffer, const Visit& visit) {
  iovec data{buffer->data(), buffer->size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control;
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
  if (size < 0) Die("recvmsg");
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    const int* fds = reinterpret_cast<const int*>(CMSG_DATA(header));
    for (size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      visit(fds[i]);
      ::close(fds[i]);
    }
  }
  return std::string(buffer->data(), static_cast<size_t>(size));
}

class RawCaller final : public Caller {
 public:
  explicit RawCaller(UniqueFd socket) : socket_(std::move(socket)) {}

  void Call(std::vector<UniqueFd> fds) override {
    Send(socket_, plain_, fds);
    if (Receive(socket_, &buffer_, [](int) {}).empty()) Die("the raw server has gone");
  }

  std::vector<std::string> CallAndVerify(std::vector<UniqueFd> fds) override {
    Send(socket_, verify_, fds);
    const std::string answer = Receive(socket_, &buffer_, [](int) {});
    std::vector<std::string> contents;
    for (size_t at = 0; at + 1 < answer.size();) {
      const size_t size = static_cast<unsigned char>(answer[at]);
      contents.push_back(answer.substr(at + 1, size));
      at += 1 + size;
    }
    return contents;
  }

 private:
  const UniqueFd socket_;
  const std::string plain_ = std::string(kMessageSize, 'p');
  const std::string verify_ = std::string(kMessageSize, 'v');
  std::array<char, 65536> buffer_;
};

}  // namespace

std::unique_ptr<Caller> ConnectRaw(const std::string& path) {
  return std::make_unique<RawCaller>(Connect(path, SOCK_SEQPACKET));
}

void SendByHand(const UniqueFd& socket, const std::vector<UniqueFd>& fds) {
  static const std::string text(kMessageSize, 'h');
  Send(socket, text, fds);
}

void TakeByHand(const UniqueFd& socket, std::vector<std::string>* contents) {
  std::array<char, 65536> buffer;
  Receive(socket, &buffer, [contents](int fd) { Inspect(fd, contents); });
}

void ServeRaw(const std::string& path) {
  const UniqueFd listener = Listen(path, SOCK_SEQPACKET);
  for (;;) {
    // A thread for each connection; they end with the process.
    std::thread([socket = Accept(listener)] {
      std::array<char, 65536> buffer;
      const std::string answer(kMessageSize, 'a');
      for (;;) {
        std::vector<std::string> contents;
        bool verify = false;
        // What is to be done with the descriptors is in the data, which the kernel has copied by
        // now.
        const std::string request = Receive(socket, &buffer, [&](int fd) {
          verify = buffer[0] == 'v';
          Inspect(fd, verify ? &contents : nullptr);
        });
        if (request.empty()) return;
        if (!verify) {
          Send(socket, answer, {});
          continue;
        }
        std::string text;
        for (const std::string& content : contents) {
          text.push_back(static_cast<char>(content.size()));
          text += content;
        }
        Send(socket, text, {});
      }
    }).detach();
  }
}

}  // namespace benchmarks
}  // namespace grpcfd
