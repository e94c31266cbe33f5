// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

#include <errno.h>
#include <sys/socket.h>
#include <systemd/sd-bus.h>

#include "benchmarks/peer.h"

namespace grpcfd {
namespace benchmarks {
namespace {

// libsystemd's functions return a negative errno.
void Check(int result, const char* what) {
  if (result >= 0) return;
  errno = -result;
  Die(what);
}

int OnCall(sd_bus_message* message, void* /*data*/, sd_bus_error* /*error*/) {
  int verify = 0;
  Check(sd_bus_message_read(message, "b", &verify), "read the request");
  std::vector<std::string> contents;
  Check(sd_bus_message_enter_container(message, 'a', "h"), "read the descriptors");
  for (;;) {
    int fd = -1;  // The message's own, closed with it.
    const int more = sd_bus_message_read(message, "h", &fd);
    Check(more, "read a descriptor");
    if (more == 0) break;
    Inspect(fd, verify != 0 ? &contents : nullptr);
  }
  Check(sd_bus_message_exit_container(message), "read the descriptors");
  sd_bus_message* reply = nullptr;
  Check(sd_bus_message_new_method_return(message, &reply), "make a reply");
  Check(sd_bus_message_open_container(reply, 'a', "s"), "write the contents");
  for (const std::string& content : contents) {
    Check(sd_bus_message_append(reply, "s", content.c_str()), "write a content");
  }
  Check(sd_bus_message_close_container(reply), "write the contents");
  Check(sd_bus_send(nullptr, reply, nullptr), "send the reply");
  sd_bus_message_unref(reply);
  return 1;
}

const sd_bus_vtable kVtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Call", "bah", "as", OnCall, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

constexpr char kPath[] = "/bench";
constexpr char kInterface[] = "org.grpcfd.Bench";

class SdBusCaller final : public Caller {
 public:
  explicit SdBusCaller(UniqueFd socket) {
    Check(sd_bus_new(&bus_), "make a bus");
    const int fd = socket.Release();  // The bus closes it.
    Check(sd_bus_set_fd(bus_, fd, fd), "set the bus's socket");
    Check(sd_bus_negotiate_fds(bus_, 1), "ask for descriptor passing");
    Check(sd_bus_set_anonymous(bus_, 1), "set anonymous");
    Check(sd_bus_start(bus_), "start the bus");
  }
  ~SdBusCaller() override { sd_bus_flush_close_unref(bus_); }

  void Call(std::vector<UniqueFd> fds) override { sd_bus_message_unref(Send(fds, false)); }

  std::vector<std::string> CallAndVerify(std::vector<UniqueFd> fds) override {
    sd_bus_message* const reply = Send(fds, true);
    std::vector<std::string> contents;
    Check(sd_bus_message_enter_container(reply, 'a', "s"), "read the contents");
    const char* content = nullptr;
    while (sd_bus_message_read(reply, "s", &content) > 0) contents.emplace_back(content);
    sd_bus_message_unref(reply);
    return contents;
  }

 private:
  sd_bus_message* Send(const std::vector<UniqueFd>& fds, bool verify) {
    sd_bus_message* message = nullptr;
    Check(sd_bus_message_new_method_call(bus_, &message, nullptr, kPath, kInterface, "Call"),
          "make a call");
    Check(sd_bus_message_append(message, "b", verify ? 1 : 0), "write the request");
    Check(sd_bus_message_open_container(message, 'a', "h"), "write the descriptors");
    for (const UniqueFd& fd : fds) {
      Check(sd_bus_message_append(message, "h", fd.get()), "write a descriptor");
    }
    Check(sd_bus_message_close_container(message), "write the descriptors");
    sd_bus_message* reply = nullptr;
    sd_bus_error error = SD_BUS_ERROR_NULL;
    const int result = sd_bus_call(bus_, message, 0, &error, &reply);
    if (result < 0 && error.message != nullptr) {
      errno = -result;
      Die(std::string("sd-bus call: ") + error.message);
    }
    Check(result, "call");
    sd_bus_message_unref(message);
    return reply;
  }

  sd_bus* bus_ = nullptr;
};

}  // namespace

std::unique_ptr<Caller> ConnectSdBus(const std::string& path) {
  return std::make_unique<SdBusCaller>(Connect(path, SOCK_STREAM));
}

void ServeSdBus(const std::string& path) {
  const UniqueFd listener = Listen(path, SOCK_STREAM);
  for (;;) {
    std::thread([fd = Accept(listener).Release()] {
      sd_bus* bus = nullptr;
      sd_id128_t id;
      Check(sd_id128_randomize(&id), "make an id");
      Check(sd_bus_new(&bus), "make a bus");
      Check(sd_bus_set_fd(bus, fd, fd), "set the bus's socket");
      Check(sd_bus_set_server(bus, 1, id), "set server");
      Check(sd_bus_negotiate_fds(bus, 1), "offer descriptor passing");
      Check(sd_bus_set_anonymous(bus, 1), "set anonymous");
      Check(sd_bus_start(bus), "start the bus");
      Check(sd_bus_add_object_vtable(bus, nullptr, kPath, kInterface, kVtable, nullptr),
            "add the object");
      for (;;) {
        int result = sd_bus_process(bus, nullptr);
        if (result == 0) result = sd_bus_wait(bus, UINT64_MAX);
        if (result < 0) break;  // The caller has gone.
      }
      sd_bus_close_unref(bus);
    }).detach();
  }
}

}  // namespace benchmarks
}  // namespace grpcfd
