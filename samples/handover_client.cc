// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The client of the handover sample: one call takes seven descriptors to the server and brings
// three back; a stream takes three more there and three back, one by one while it runs. Prints a
// line for each, with what was proved of it, and at last whether either process has one left open.
// Start reading at HandOverAll() and HandOverInStream(); main() is at the end.
//
//   handover_client unix:/run/user/1000/handover.sock
//
// grpcfd is in four places: CreateChannel, FromContext, Attach and Take.
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpcfd/grpcfd.h"
#include "handover.grpc.pb.h"
#include "handover_io.h"

namespace handover {
namespace {

// The first thing that is not as it should be ends the program. A program with more to lose would
// look at each status.
void OrExit(const absl::Status& status, const std::string& what) {
  if (status.ok()) return;
  fflush(stdout);
  fprintf(stderr, "handover_client: %s: %s\n", what.c_str(), status.ToString().c_str());
  exit(1);
}

template <typename T>
T OrExit(absl::StatusOr<T> result, const std::string& what) {
  OrExit(result.status(), what);
  return *std::move(result);
}

void OrExit(const grpc::Status& status, const std::string& what) {
  OrExit(absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message()),
         what);
}

void SetDeadline(grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
}

// One line for each descriptor.
class Report {
 public:
  void ClientToServer(const char* kind, const std::string& url, const std::string& proof) {
    Line(kind, url, "client -> server", proof);
  }
  void ServerToClient(const char* kind, const std::string& url, const std::string& proof) {
    Line(kind, url, "server -> client", proof);
  }
  int count() const { return count_; }

 private:
  void Line(const char* kind, const std::string& url, const char* direction,
            const std::string& proof) {
    ++count_;
    printf("%-16s %-28s %s  %s\n", kind, url.c_str(), direction, proof.c_str());
  }

  int count_ = 0;
};

// Sends a duplicate of `file`, or `file` itself if it is moved. Says what the server must find in
// it and shall answer.
template <typename Fd>
Item Send(grpcfd::FdTransceiver* fds, Fd&& file, const std::string& content,
          const std::string& answer) {
  Item item;
  *item.mutable_fd() = OrExit(grpcfd::Attach(*fds, std::forward<Fd>(file)), "Attach");
  item.set_content(content);
  item.set_answer(answer);
  return item;
}

// What the server says it has proved. The client proves the rest.
std::string ServersProof(const ExchangeReply& reply, const Item& item) {
  const auto proof = reply.proofs().find(item.fd().url());
  if (proof == reply.proofs().end()) {
    OrExit(absl::DataLossError("the server says nothing of it"), item.fd().url());
  }
  return proof->second;
}

// The client's own descriptors of the seven things that it hands over.
struct Originals {
  grpcfd::UniqueFd unlinked;
  grpcfd::UniqueFd memory;
  grpcfd::UniqueFd events[2];
  grpcfd::UniqueFd read_write;  // These two are the same file,
  grpcfd::UniqueFd read_only;   // opened in two ways.
  grpcfd::UniqueFd listener;
  grpcfd::UniqueFd connection;  // A connection to `listener`.
};

Originals MakeOriginals() {
  Originals originals;
  originals.unlinked = OrExit(MakeUnlinkedFile("in a file without a name"), "file");
  originals.memory = OrExit(MakeMemoryFile("handover", "in memory, in no file system"), "memfd");
  for (grpcfd::UniqueFd& event : originals.events) event = OrExit(MakeEvent(), "eventfd");
  originals.read_write = OrExit(MakeUnlinkedFile("opened twice"), "file");
  originals.read_only = OrExit(ReopenReadOnly(originals.read_write), "second open");

  // Nobody accepts yet. The connection waits in the listener's queue for whoever has the listener.
  originals.listener = OrExit(ListenOnLoopback(), "TCP listener");
  originals.connection = OrExit(ConnectTo(originals.listener), "TCP connection");
  OrExit(WriteToStream(originals.connection, "who accepts this?"), "TCP connection");
  OrExit(FinishSending(originals.connection), "TCP connection");
  return originals;
}

// Attach(fd) sends a duplicate; Attach(std::move(fd)) gives the descriptor itself away.
ExchangeRequest SendAll(grpcfd::FdTransceiver* fds, Originals* originals) {
  ExchangeRequest request;
  *request.mutable_unlinked_file() =
      Send(fds, originals->unlinked, "in a file without a name", ", and read");
  *request.mutable_memory_file() =
      Send(fds, originals->memory, "in memory, in no file system", ", and seen");
  uint64_t value_of_event = 100;
  for (const grpcfd::UniqueFd& event : originals->events) {
    Item* item = request.add_events();
    *item->mutable_fd() = OrExit(grpcfd::Attach(*fds, event), "Attach");
    item->set_value(++value_of_event);
  }
  *request.mutable_read_only_file() =
      Send(fds, std::move(originals->read_only), "opened twice", "");
  *request.mutable_read_write_file() =
      Send(fds, originals->read_write, "opened twice", ", written once");
  *request.mutable_tcp_listener() =
      Send(fds, std::move(originals->listener), "who accepts this?", "I do");
  return request;
}

// The proof of a file is complete when the client reads, through its own descriptor, what the
// server wrote through the one that it got.
void ProveFile(const char* kind, const Item& sent, const grpcfd::UniqueFd& file,
               const ExchangeReply& reply, Report* report) {
  OrExit(Expect(sent.content() + sent.answer(), OrExit(ReadFile(file), kind)), kind);
  report->ClientToServer(kind, sent.fd().url(),
                         ServersProof(reply, sent) + "; client saw the write");
}

void ProveSent(const ExchangeRequest& request, const ExchangeReply& reply,
               const Originals& originals, Report* report) {
  ProveFile("unlinked file", request.unlinked_file(), originals.unlinked, reply, report);
  ProveFile("memfd", request.memory_file(), originals.memory, reply, report);
  for (int i = 0; i < request.events_size(); ++i) {
    const Item& sent = request.events(i);
    const uint64_t value = OrExit(ReadEvent(originals.events[i]), "eventfd");
    OrExit(Expect(absl::StrCat(sent.value()), absl::StrCat(value)), "eventfd");
    report->ClientToServer("eventfd", sent.fd().url(),
                           absl::StrCat(ServersProof(reply, sent), "; client read ", value));
  }
  report->ClientToServer("file, read-only", request.read_only_file().fd().url(),
                         ServersProof(reply, request.read_only_file()));
  ProveFile("file, read-write", request.read_write_file(), originals.read_write, reply, report);
  OrExit(Expect(request.tcp_listener().answer(),
                OrExit(ReadToEnd(originals.connection), "TCP connection")),
         "TCP connection");
  report->ClientToServer("TCP listener", request.tcp_listener().fd().url(),
                         ServersProof(reply, request.tcp_listener()) + "; client got the answer");
}

// The two ends of a pipe have the same inode; the URLs' indices tell them apart.
void ProvePipe(const ExchangeReply& reply, grpcfd::FdTransceiver* fds, Report* report) {
  const Item& read_item = reply.pipe_read_end();
  const Item& write_item = reply.pipe_write_end();
  const grpcfd::UniqueFd read_end = OrExit(grpcfd::Take(*fds, read_item.fd()), "pipe, read end");
  grpcfd::UniqueFd write_end = OrExit(grpcfd::Take(*fds, write_item.fd()), "pipe, write end");
  OrExit(WriteToStream(write_end, ", and the client"), "pipe, write end");
  // The last write end: the server gave its own away. So a reader comes to the pipe's end.
  write_end.Reset();
  OrExit(Expect(read_item.content() + ", and the client",
                OrExit(ReadToEnd(read_end), "pipe, read end")),
         "pipe");
  report->ServerToClient("pipe, read end", read_item.fd().url(),
                         "client read what both wrote, to the end");
  report->ServerToClient("pipe, write end", write_item.fd().url(),
                         "client wrote; no other write end is open");
}

void ProveSealedMemory(const Item& item, grpcfd::FdTransceiver* fds, Report* report) {
  const grpcfd::UniqueFd sealed = OrExit(grpcfd::Take(*fds, item.fd()), "memfd, sealed");
  if (!IsSealed(sealed)) OrExit(absl::DataLossError("not sealed"), "memfd, sealed");
  OrExit(Expect(item.content(), OrExit(ReadFile(sealed), "memfd, sealed")), "memfd, sealed");
  report->ServerToClient("memfd, sealed", item.fd().url(), "client read it; sealed against change");
}

void HandOverAll(Handover::Stub* stub, Report* report) {
  Originals originals = MakeOriginals();

  // The call's descriptors, both directions. What is sent before the call starts goes along with
  // it.
  grpc::ClientContext context;
  SetDeadline(&context);
  const std::shared_ptr<grpcfd::FdTransceiver> fds = grpcfd::FromContext(&context);
  const ExchangeRequest request = SendAll(fds.get(), &originals);
  ExchangeReply reply;
  OrExit(stub->Exchange(&context, request, &reply), "Exchange");

  ProveSent(request, reply, originals, report);
  // Descriptors of the reply can be taken until `context` and `fds` are gone.
  ProvePipe(reply, fds.get(), report);
  ProveSealedMemory(reply.sealed_memory_file(), fds.get(), report);
}

void HandOverInStream(Handover::Stub* stub, Report* report) {
  // Nothing is sent before the call, but this is what makes grpcfd take part in it.
  grpc::ClientContext context;
  SetDeadline(&context);
  const std::shared_ptr<grpcfd::FdTransceiver> fds = grpcfd::FromContext(&context);
  const auto stream = stub->Converse(&context);

  for (int round = 0; round < 3; ++round) {
    const grpcfd::UniqueFd memory =
        OrExit(MakeMemoryFile("handover-stream", "one of a stream"), "memfd");
    // First the descriptor, then the message that names it: so the server need not wait.
    ConverseRequest request;
    *request.mutable_memory_file() = Send(fds.get(), memory, "one of a stream", ", and answered");
    ConverseReply reply;
    if (!stream->Write(request) || !stream->Read(&reply)) {
      OrExit(stream->Finish(), "Converse");  // Says why.
      OrExit(absl::DataLossError("the server ended it"), "Converse");
    }

    OrExit(Expect("one of a stream, and answered", OrExit(ReadFile(memory), "memfd")), "memfd");
    report->ClientToServer("memfd, in stream", request.memory_file().fd().url(),
                           reply.proof() + "; client saw the write");
    const Item& pipe = reply.pipe_read_end();
    const grpcfd::UniqueFd read_end = OrExit(grpcfd::Take(*fds, pipe.fd()), "pipe");
    OrExit(Expect(pipe.content(), OrExit(ReadToEnd(read_end), "pipe")), "pipe");
    report->ServerToClient("pipe, in stream", pipe.fd().url(), "client read it, to the end");
  }
  stream->WritesDone();
  OrExit(stream->Finish(), "Converse");
}

// --- Counting what is left open ---

struct Tables {
  DescriptorTable client;
  DescriptorTable server;
};

Tables BothTables(Handover::Stub* stub) {
  grpc::ClientContext context;
  SetDeadline(&context);
  OpenDescriptorsReply reply;
  OrExit(stub->OpenDescriptors(&context, {}, &reply), "OpenDescriptors");
  return {OrExit(OpenDescriptors(), "/proc/self/fd"),
          DescriptorTable(reply.table().begin(), reply.table().end())};
}

// Looks again and again, for 10 s at most, until `done` says that the tables are as they should be;
// the last look is returned. Polled because there is no event to wait for: a client can have its
// reply a moment before the server has finished the call and closed what belonged to it, and
// nothing tells another process of a close(2).
template <typename Predicate>
Tables LookUntil(Handover::Stub* stub, Predicate done) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (true) {
    Tables tables = BothTables(stub);
    if (done(tables) || std::chrono::steady_clock::now() > give_up) return tables;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

bool Names(const DescriptorTable& table, const std::string& name) {
  for (const auto& entry : table) {
    if (absl::StrContains(entry.second, name)) return true;
  }
  return false;
}

// gRPC and grpcfd open descriptors of their own with the first call, and keep them. So the count
// starts after one. The call carries a descriptor that the server ignores: once neither process has
// it, everything of the call is over.
Tables WarmUp(Handover::Stub* stub) {
  const std::string name = absl::StrCat("handover-warm-up-", getpid());
  {
    grpc::ClientContext context;
    SetDeadline(&context);
    context.set_wait_for_ready(true);  // The server may be starting just now.
    const auto fds = grpcfd::FromContext(&context);
    OrExit(grpcfd::Attach(*fds, OrExit(MakeMemoryFile(name, ""), "memfd")), "Attach");
    OpenDescriptorsReply reply;
    OrExit(stub->OpenDescriptors(&context, {}, &reply), "the first call");
  }
  Tables tables = LookUntil(stub, [&name](const Tables& now) {
    return !Names(now.client, name) && !Names(now.server, name);
  });
  if (Names(tables.client, name) || Names(tables.server, name)) {
    OrExit(absl::InternalError("its descriptor is still open 10 s later"), "the first call");
  }
  return tables;
}

// What `after` has and `before` had not. Not the other way round: the server may just be done with
// the client before us.
DescriptorTable LeftOpen(const DescriptorTable& before, const DescriptorTable& after) {
  DescriptorTable left_open;
  for (const auto& [fd, target] : after) {
    const auto old = before.find(fd);
    if (old == before.end() || old->second != target) left_open[fd] = target;
  }
  return left_open;
}

int CountAndName(const char* process, const DescriptorTable& left_open) {
  for (const auto& [fd, target] : left_open) {
    fprintf(stderr, "handover_client: the %s has left open: %d, %s\n", process, fd, target.c_str());
  }
  return static_cast<int>(left_open.size());
}

}  // namespace
}  // namespace handover

// NOLINTNEXTLINE(bugprone-exception-escape): CLI11 throws if options are defined wrongly.
int main(int argc, char** argv) {
  using handover::Tables;

  std::string address;
  CLI::App app("The client of grpcfd's handover sample. Exit status 0 only if all was proved.");
  app.add_option("address,--socket", address, "Where the server listens: unix:PATH")->required();
  CLI11_PARSE(app, argc, argv);
  signal(SIGPIPE, SIG_IGN);  // A server that hangs up must be an error of write(2), not our end.

  // Instead of grpc::CreateChannel(...). The stub is the stock one.
  const auto channel = grpcfd::CreateChannel(address, grpc::InsecureChannelCredentials());
  const auto stub = handover::Handover::NewStub(channel);

  const Tables before = handover::WarmUp(stub.get());
  handover::Report report;
  handover::HandOverAll(stub.get(), &report);
  handover::HandOverInStream(stub.get(), &report);
  const Tables after = handover::LookUntil(stub.get(), [&before](const Tables& now) {
    return handover::LeftOpen(before.client, now.client).empty() &&
           handover::LeftOpen(before.server, now.server).empty();
  });

  fflush(stdout);
  const int left_open =
      handover::CountAndName("client", handover::LeftOpen(before.client, after.client)) +
      handover::CountAndName("server", handover::LeftOpen(before.server, after.server));
  printf(
      "%d descriptors handed over and proved; open before and after: client %zu and %zu, server "
      "%zu and %zu; %d left open\n",
      report.count(), before.client.size(), after.client.size(), before.server.size(),
      after.server.size(), left_open);
  return left_open == 0 ? 0 : 1;
}
