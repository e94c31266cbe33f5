// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The C++ side of the tests of python/: a server of tests/proto/test.proto, with the synchronous or
// the callback API.
//
//   test_server sync|callback unix:PATH [NAME=LIMIT...]    max_fds_per_call, window,
//   max_session_fds; listen_fd is a listening socket that it has been given, early_timeout is in
//   milliseconds
//
// It prints READY, then answers each line of its input with one, and ends with it. "fds" is
// answered with the number of descriptors it has open, "sessions" with the number of its sessions.
//
// What a request says:
//   urls     the files whose contents the reply's payload joins with line feeds
//   number   how many files the reply names; their contents are payload.0, payload.1, ...
//   command  "ignore" takes nothing. "fail" fails after all is sent, with ABORTED. "unsent" names a
//            file in the reply that was not sent. "register" registers the files for all calls of
//            the session instead
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "grpcfd/grpcfd.h"
#include "test.grpc.pb.h"
#include "tests/echo.h"

namespace grpcfd {
namespace {

using test::ExchangeReply;
using test::ExchangeRequest;
using test::TestService;
using testing_internal::CountDescriptors;
using testing_internal::EchoService;
using testing_internal::SendFiles;
using testing_internal::TakeFiles;

// The registrations of all sessions, which end with the server.
class Registrations {
 public:
  absl::StatusOr<std::string> Add(grpc::ServerContextBase* context, const UniqueFd& fd) {
    absl::StatusOr<std::shared_ptr<FdSession>> session = SessionFromContext(context);
    if (!session.ok()) return session.status();
    absl::StatusOr<SessionFd> registered = (*session)->Register(fd);
    if (!registered.ok()) return registered.status();
    std::string url = registered->url().ToString();
    const std::lock_guard<std::mutex> lock(mutex_);
    all_.push_back(*std::move(registered));
    return url;
  }

 private:
  std::mutex mutex_;
  std::vector<SessionFd> all_;
};

absl::Status Exchange(grpc::ServerContextBase* context, const ExchangeRequest& request,
                      Registrations* registrations, ExchangeReply* reply) {
  if (request.command() == "plain") return absl::OkStatus();
  auto fds = FromContext(context);
  if (!fds->status().ok()) return fds->status();
  if (request.command() == "ignore") return absl::OkStatus();
  GRPCFD_RETURN_IF_ERROR(TakeFiles(fds.get(), request, reply));
  const auto send = [&](UniqueFd file) -> absl::StatusOr<std::string> {
    if (request.command() == "register") return registrations->Add(context, file);
    GRPCFD_ASSIGN_OR_RETURN(const InodeUrl url, fds->SendFd(std::move(file)));
    return url.ToString();
  };
  GRPCFD_RETURN_IF_ERROR(SendFiles(send, request, reply));
  if (request.command() == "unsent") reply->add_urls("inode://1/1?fd=99");
  if (request.command() == "fail") return absl::AbortedError("as was asked");
  return absl::OkStatus();
}

class ChatReactor final : public grpc::ServerBidiReactor<ExchangeRequest, ExchangeReply> {
 public:
  ChatReactor(grpc::CallbackServerContext* context, Registrations* registrations)
      : context_(context), registrations_(registrations) {
    StartRead(&request_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    reply_.Clear();
    const absl::Status status = Exchange(context_, request_, registrations_, &reply_);
    if (!status.ok()) return Finish(ToGrpcStatus(status));
    StartWrite(&reply_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  grpc::CallbackServerContext* const context_;
  Registrations* const registrations_;
  ExchangeRequest request_;
  ExchangeReply reply_;
};

class UploadReactor final : public grpc::ServerReadReactor<ExchangeRequest> {
 public:
  UploadReactor(grpc::CallbackServerContext* context, Registrations* registrations,
                ExchangeReply* reply)
      : context_(context), registrations_(registrations), reply_(reply) {
    StartRead(&request_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) {
      reply_->set_payload(absl::StrJoin(contents_, "\n"));
      return Finish(grpc::Status::OK);
    }
    const absl::Status status = Exchange(context_, request_, registrations_, reply_);
    if (!status.ok()) return Finish(ToGrpcStatus(status));
    contents_.push_back(reply_->payload());
    StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  grpc::CallbackServerContext* const context_;
  Registrations* const registrations_;
  ExchangeReply* const reply_;
  ExchangeRequest request_;
  std::vector<std::string> contents_;
};

class DownloadReactor final : public grpc::ServerWriteReactor<ExchangeReply> {
 public:
  DownloadReactor(grpc::CallbackServerContext* context, const ExchangeRequest& request,
                  Registrations* registrations)
      : context_(context), request_(request), registrations_(registrations) {
    Next();
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    Next();
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (sent_ == request_.number()) return Finish(grpc::Status::OK);
    reply_.Clear();
    const absl::Status status =
        Exchange(context_, EchoService::OneFileOf(request_, sent_++), registrations_, &reply_);
    if (!status.ok()) return Finish(ToGrpcStatus(status));
    StartWrite(&reply_);
  }

  grpc::CallbackServerContext* const context_;
  const ExchangeRequest request_;
  Registrations* const registrations_;
  ExchangeReply reply_;
  uint64_t sent_ = 0;
};

class CallbackService final : public TestService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Exchange(grpc::CallbackServerContext* context,
                                     const ExchangeRequest* request,
                                     ExchangeReply* reply) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(grpcfd::Exchange(context, *request, &registrations_, reply)));
    return reactor;
  }
  grpc::ServerReadReactor<ExchangeRequest>* Upload(grpc::CallbackServerContext* context,
                                                   ExchangeReply* reply) override {
    return new UploadReactor(context, &registrations_, reply);
  }
  grpc::ServerWriteReactor<ExchangeReply>* Download(grpc::CallbackServerContext* context,
                                                    const ExchangeRequest* request) override {
    return new DownloadReactor(context, *request, &registrations_);
  }
  grpc::ServerBidiReactor<ExchangeRequest, ExchangeReply>* Chat(
      grpc::CallbackServerContext* context) override {
    return new ChatReactor(context, &registrations_);
  }

 private:
  Registrations registrations_;
};

absl::Status Main(const std::vector<std::string>& arguments) {
  constexpr char kUsage[] = "usage: test_server sync|callback unix:PATH [NAME=LIMIT...]";
  if (arguments.size() < 2) return absl::InvalidArgumentError(kUsage);
  FdServerOptions fd_options;
  SessionLimits& limits = fd_options.limits.session;
  uint32_t listen_fd = 0;
  uint32_t early_timeout = 0;
  const std::map<std::string, uint32_t*> names = {{"max_fds_per_call", &limits.max_fds_per_call},
                                                  {"window", &limits.session_window},
                                                  {"max_session_fds", &limits.max_session_fds},
                                                  {"listen_fd", &listen_fd},
                                                  {"early_timeout", &early_timeout}};
  for (size_t i = 2; i < arguments.size(); ++i) {
    const std::pair<std::string, std::string> option =
        absl::StrSplit(arguments[i], absl::MaxSplits('=', 1));
    const auto limit = names.find(option.first);
    if (limit == names.end() || !absl::SimpleAtoi(option.second, limit->second)) {
      return absl::InvalidArgumentError(kUsage);
    }
  }
  if (early_timeout != 0) fd_options.limits.early_timeout = absl::Milliseconds(early_timeout);
  absl::StatusOr<std::shared_ptr<FdServer>> fd_server = FdServer::Create(fd_options);
  if (!fd_server.ok()) return fd_server.status();
  ListenOptions options;
  options.fd_server = *fd_server;
  if (listen_fd != 0) options.listen_fd = BorrowedFd(static_cast<int>(listen_fd));
  absl::Status bound;
  options.bind_status = &bound;
  Registrations registrations;
  EchoService sync([&registrations](grpc::ServerContext* context, const ExchangeRequest& request,
                                    ExchangeReply* reply) {
    return Exchange(context, request, &registrations, reply);
  });
  CallbackService callback;
  grpc::ServerBuilder builder;
  AddListeningPort(&builder, arguments[1], grpc::InsecureServerCredentials(), options);
  if (arguments[0] == "callback") {
    builder.RegisterService(&callback);
  } else {
    builder.RegisterService(&sync);
  }
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return bound.ok() ? absl::InternalError("no server") : bound;
  std::cout << "READY" << std::endl;
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout << (line == "sessions" ? static_cast<int>((*fd_server)->session_count())
                                     : CountDescriptors().value_or(-1))
              << std::endl;
  }
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return absl::OkStatus();
}

}  // namespace
}  // namespace grpcfd

int main(int argc, char** argv) {
  const absl::Status status = grpcfd::Main({argv + 1, argv + argc});
  if (status.ok()) return 0;
  std::cerr << "test_server: " << status << std::endl;
  return 1;
}
