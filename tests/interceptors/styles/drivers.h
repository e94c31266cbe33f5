// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The ways in which a gRPC C++ program serves and makes calls, each following the scripts of
// script.h.
#ifndef GRPCFD_TESTS_INTERCEPTORS_STYLES_DRIVERS_H_
#define GRPCFD_TESTS_INTERCEPTORS_STYLES_DRIVERS_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "grpcfd/grpcfd.h"
#include "tests/interceptors/styles/script.h"

namespace grpcfd {
namespace styles {

// A completion queue for one thread that does one thing after another: start an operation, wait for
// its tag. Tags that come out of turn are kept.
class LinearQueue {
 public:
  explicit LinearQueue(grpc::CompletionQueue* queue) : queue_(queue) {}

  void* Tag() { return reinterpret_cast<void*>(++last_); }
  // Whether the operation with `tag` succeeded; false also if the queue has been shut down.
  bool Wait(void* tag) {
    while (results_.count(tag) == 0) {
      void* got = nullptr;
      bool ok = false;
      if (!queue_->Next(&got, &ok)) return false;
      results_[got] = ok;
    }
    const bool ok = results_[tag];
    results_.erase(tag);
    return ok;
  }
  template <typename Start>
  bool Do(const Start& start) {
    void* const tag = Tag();
    start(tag);
    return Wait(tag);
  }

 private:
  grpc::CompletionQueue* const queue_;
  uintptr_t last_ = 0;
  std::map<void*, bool> results_;
};

// A server whose service is written in one of the styles. Stopped with the object.
class StyleServer {
 public:
  virtual ~StyleServer() = default;
  FdServer* fd_server() { return fd_server_.get(); }
  grpc::Server* server() { return server_.get(); }

 protected:
  // Adds the port and starts the server.
  void Start(const std::string& address, grpc::ServerBuilder* builder);
  // First thing in each destructor: the services are still there then.
  void Stop() {
    if (server_ != nullptr) {
      server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
    }
  }

 private:
  std::shared_ptr<FdServer> fd_server_;
  std::unique_ptr<grpc::Server> server_;
};

std::unique_ptr<StyleServer> StartServer(Style style, const std::string& address, Stage* stage);

// Makes the call of `script` in the given style. Returns at once; the script is told of the end.
// Both objects outlive the call.
class StyleCall {
 public:
  virtual ~StyleCall() = default;
};
std::unique_ptr<StyleCall> StartCall(Style style, const std::shared_ptr<grpc::Channel>& channel,
                                     ClientScript* script);

}  // namespace styles
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_STYLES_DRIVERS_H_
