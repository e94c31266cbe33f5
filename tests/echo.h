// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// An echo service for test programs whose peers are in another language: it takes the files that a
// request names, and sends as many new ones as the request asks for. Needs no gtest.
#ifndef GRPCFD_TESTS_ECHO_H_
#define GRPCFD_TESTS_ECHO_H_

#include <dirent.h>
#include <errno.h>
#include <grpcpp/grpcpp.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "grpcfd/grpcfd.h"
#include "test.grpc.pb.h"

namespace grpcfd {
namespace testing_internal {

inline absl::StatusOr<UniqueFd> MakeMemoryFile(const std::string& content) {
  UniqueFd fd(::memfd_create("echo", MFD_CLOEXEC));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "memfd_create");
  if (::pwrite(fd.get(), content.data(), content.size(), 0) !=
      static_cast<ssize_t>(content.size())) {
    return absl::ErrnoToStatus(errno, "pwrite");
  }
  return fd;
}

// A short file's content, read without its offset, which is shared with the sender.
inline absl::StatusOr<std::string> ContentOf(const UniqueFd& fd) {
  char buffer[4096];
  const ssize_t got = ::pread(fd.get(), buffer, sizeof(buffer), 0);
  if (got < 0) return absl::ErrnoToStatus(errno, "pread");
  return std::string(buffer, static_cast<size_t>(got));
}

// How many descriptors this process has open.
inline absl::StatusOr<int> CountDescriptors() {
  DIR* const directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return absl::ErrnoToStatus(errno, "/proc/self/fd");
  int count = -3;  // ".", "..", and the one that reads the directory.
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

// Takes the files that `request` names. The payload of `reply` is their contents, joined with line
// feeds. With the command "touch" they are not read.
inline absl::Status TakeFiles(FdTransceiver* fds, const test::ExchangeRequest& request,
                              test::ExchangeReply* reply) {
  std::vector<std::string> contents;
  for (const std::string& url : request.urls()) {
    // A session-scoped one stays where it is, and each request gets a duplicate.
    GRPCFD_ASSIGN_OR_RETURN(const UniqueFd fd, fds->RecvFd(url));
    if (request.command() == "touch") continue;
    GRPCFD_ASSIGN_OR_RETURN(std::string content, ContentOf(fd));
    contents.push_back(std::move(content));
  }
  reply->set_payload(absl::StrJoin(contents, "\n"));
  return absl::OkStatus();
}

// Sends request.number() files with the contents payload.0, payload.1 and so on, by `send`, and
// names them in `reply`.
using FileSender = std::function<absl::StatusOr<std::string>(UniqueFd)>;
inline absl::Status SendFiles(const FileSender& send, const test::ExchangeRequest& request,
                              test::ExchangeReply* reply) {
  for (uint64_t i = 0; i < request.number(); ++i) {
    GRPCFD_ASSIGN_OR_RETURN(UniqueFd file, MakeMemoryFile(absl::StrCat(request.payload(), ".", i)));
    GRPCFD_ASSIGN_OR_RETURN(const std::string url, send(std::move(file)));
    reply->add_urls(url);
  }
  return absl::OkStatus();
}

// All four kinds of calls, with one function that answers a request. Upload joins the payloads of
// its answers, and Download answers with a message for each file.
class EchoService final : public test::TestService::Service {
 public:
  using Exchanger = std::function<absl::Status(grpc::ServerContext*, const test::ExchangeRequest&,
                                               test::ExchangeReply*)>;

  explicit EchoService(Exchanger exchange) : exchange_(std::move(exchange)) {}

  grpc::Status Exchange(grpc::ServerContext* context, const test::ExchangeRequest* request,
                        test::ExchangeReply* reply) override {
    return ToGrpcStatus(exchange_(context, *request, reply));
  }
  grpc::Status Upload(grpc::ServerContext* context,
                      grpc::ServerReader<test::ExchangeRequest>* reader,
                      test::ExchangeReply* reply) override {
    std::vector<std::string> contents;
    test::ExchangeRequest request;
    while (reader->Read(&request)) {
      GRPCFD_RETURN_IF_ERROR(exchange_(context, request, reply));
      contents.push_back(reply->payload());
    }
    reply->set_payload(absl::StrJoin(contents, "\n"));
    return grpc::Status::OK;
  }
  grpc::Status Download(grpc::ServerContext* context, const test::ExchangeRequest* request,
                        grpc::ServerWriter<test::ExchangeReply>* writer) override {
    for (uint64_t i = 0; i < request->number(); ++i) {
      test::ExchangeReply reply;
      GRPCFD_RETURN_IF_ERROR(exchange_(context, OneFileOf(*request, i), &reply));
      if (!writer->Write(reply)) break;
    }
    return grpc::Status::OK;
  }
  grpc::Status Chat(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) override {
    test::ExchangeRequest request;
    while (stream->Read(&request)) {
      test::ExchangeReply reply;
      GRPCFD_RETURN_IF_ERROR(exchange_(context, request, &reply));
      if (!stream->Write(reply)) break;
    }
    return grpc::Status::OK;
  }

  // What a Download of `request` asks for with its message `i`.
  static test::ExchangeRequest OneFileOf(const test::ExchangeRequest& request, uint64_t i) {
    test::ExchangeRequest one;
    one.set_command(request.command());
    one.set_payload(absl::StrCat(request.payload(), ".", i));
    one.set_number(1);
    return one;
  }

 private:
  const Exchanger exchange_;
};

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_ECHO_H_
