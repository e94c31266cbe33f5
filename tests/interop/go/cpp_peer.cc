// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The C++ side of the interop tests: a server or a client of tests/proto/test.proto that uses
// grpcfd's in-band wire. README.md beside this file has its commands; the Go side, peer/main.go,
// has the same.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
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
using testing_internal::ContentOf;
using testing_internal::CountDescriptors;
using testing_internal::EchoService;
using testing_internal::MakeMemoryFile;
using testing_internal::SendFiles;
using testing_internal::TakeFiles;
using Answer = absl::StatusOr<std::string>;

constexpr std::chrono::seconds kPatience{60};  // Per call; reached by failures only.
constexpr int kMessagesPerStream = 10;
constexpr int kBurst = 64;           // What a Go peer lets leave with one write.
constexpr uint32_t kPerCall = 1024;  // Enough for every case.

struct Flags {
  std::string socket;
  std::string certificate;
  std::string key;
  PortWire wire = PortWire::kInBand;
  uint32_t kept = 512;  // InBandOptions::max_fds_per_connection.
};

// --- What both roles share ---

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

Answer AnswerFds() {
  const absl::StatusOr<int> count = CountDescriptors();
  if (!count.ok()) return count.status();
  return absl::StrCat("fds=", *count);
}

absl::Status FromGrpc(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

// Answers the lines of standard input, until it ends or a command fails.
absl::Status Commands(const std::function<Answer(const std::vector<std::string>&)>& answer) {
  std::string line;
  while (std::getline(std::cin, line)) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.empty()) continue;
    Answer text = answer(words);
    if (!text.ok()) {
      return absl::Status(text.status().code(), absl::StrCat(line, ": ", text.status().message()));
    }
    std::cout << "OK" << (text->empty() ? "" : " ") << *text << std::endl;
  }
  return absl::OkStatus();
}

// --- Server ---

// Takes what the request names, and sends as many new descriptors as it asks for.
absl::Status Exchange(grpc::ServerContext* context, const ExchangeRequest& request,
                      ExchangeReply* reply) {
  if (request.command() == "plain") return absl::OkStatus();
  auto fds = FromContext(context);
  if (!fds->status().ok()) return fds->status();
  GRPCFD_RETURN_IF_ERROR(TakeFiles(fds.get(), request, reply));
  const auto send = [&fds](UniqueFd file) -> absl::StatusOr<std::string> {
    GRPCFD_ASSIGN_OR_RETURN(const InodeUrl url, fds->SendFd(std::move(file)));
    return url.ToString();
  };
  return SendFiles(send, request, reply);
}

absl::Status Serve(const Flags& flags) {
  std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
  if (!flags.certificate.empty()) {
    grpc::SslServerCredentialsOptions options;
    options.pem_key_cert_pairs.push_back({ReadFile(flags.key), ReadFile(flags.certificate)});
    credentials = grpc::SslServerCredentials(options);
  }
  ListenOptions options;
  options.wire = flags.wire;
  options.in_band.max_fds_per_connection = flags.kept;
  options.in_band.max_queued_fds = kPerCall;
  absl::Status bound;
  options.bind_status = &bound;
  EchoService service(Exchange);
  grpc::ServerBuilder builder;
  AddListeningPort(&builder, "unix:" + flags.socket, credentials, options);
  builder.RegisterService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return bound.ok() ? absl::InternalError("no server") : bound;
  std::cout << "READY" << std::endl;
  absl::Status status = Commands([](const std::vector<std::string>& words) -> Answer {
    if (words[0] == "fds") return AnswerFds();
    return absl::InvalidArgumentError("unknown command");
  });
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return status;
}

// --- Client ---

class Client {
 public:
  explicit Client(Flags flags) : flags_(std::move(flags)) {}

  absl::Status Run() {
    std::cout << "READY" << std::endl;
    return Commands([this](const std::vector<std::string>& words) { return AnswerTo(words); });
  }

 private:
  // One call, or one stream: its context, and the descriptors that go with it.
  struct Call {
    Call() : fds(FromContext(&context)) {
      context.set_deadline(std::chrono::system_clock::now() + kPatience);
    }
    grpc::ClientContext context;
    std::shared_ptr<FdTransceiver> fds;
  };

  // A request, and what the server must find in its files.
  struct Filled {
    ExchangeRequest request;
    std::string wanted;
  };

  // Plain calls that keep bytes flowing while more descriptors are under way than a Go peer lets
  // leave with one write: that wire has no other way to flush them.
  class Nudge {
   public:
    Nudge(TestService::Stub* stub, int descriptors) {
      if (descriptors <= kBurst) return;
      thread_ = std::thread([this, stub] {
        while (!stop_) {
          grpc::ClientContext context;
          ExchangeRequest request;
          request.set_command("plain");
          ExchangeReply reply;
          stub->Exchange(&context, request, &reply);
        }
      });
    }
    ~Nudge() {
      stop_ = true;
      if (thread_.joinable()) thread_.join();
    }
    Nudge(const Nudge&) = delete;
    Nudge& operator=(const Nudge&) = delete;

   private:
    std::atomic<bool> stop_{false};
    std::thread thread_;
  };

  absl::Status Connect() {
    std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    if (!flags_.certificate.empty()) {
      grpc::SslCredentialsOptions options;
      options.pem_root_certs = ReadFile(flags_.certificate);
      credentials = grpc::SslCredentials(options);
      arguments.SetSslTargetNameOverride("localhost");
    }
    ChannelOptions options;
    options.wire = flags_.wire == PortWire::kFdChannel ? Wire::kFdChannel : Wire::kInBand;
    options.in_band.max_fds_per_connection = flags_.kept;
    options.in_band.max_queued_fds = kPerCall;
    if (options.wire != Wire::kFdChannel)
      options.fd_channel_options.limits.max_fds_per_call = kPerCall;
    channel_ = CreateCustomChannel("unix:" + flags_.socket, credentials, arguments, {}, options);
    if (!channel_->WaitForConnected(std::chrono::system_clock::now() + kPatience)) {
      return absl::UnavailableError("no connection");
    }
    stub_ = TestService::NewStub(channel_);
    return absl::OkStatus();
  }

  Answer AnswerTo(const std::vector<std::string>& words) {
    std::map<std::string, std::string> options;
    for (const std::string& word : words) {
      const std::pair<std::string, std::string> option =
          absl::StrSplit(word, absl::MaxSplits('=', 1));
      options[option.first] = option.second;
    }
    const auto number = [&options](const char* name) {
      int value = 0;
      return absl::SimpleAtoi(options[name], &value) ? value : 0;
    };
    const std::string& command = words[0];
    if (command == "fds") return AnswerFds();
    if ((command == "connect") != (stub_ == nullptr)) {
      return absl::FailedPreconditionError("connect comes first, and once until close");
    }
    absl::Status status;
    if (command == "connect") {
      status = Connect();
    } else if (command == "close") {
      stub_.reset();
      channel_.reset();
    } else if (command == "unary" || command == "stream") {
      const int calls = number("calls"), send = number("send"), receive = number("receive");
      status = command == "unary" ? Unary(calls, send, receive) : Stream(calls, send, receive);
      if (status.ok()) {
        return absl::StrCat("calls=", calls, " sent=", calls * send, " received=", calls * receive);
      }
    } else if (command == "again") {
      status = Again();
    } else if (command == "bench") {
      return Bench(number("calls"), options["kind"]);
    } else {
      return absl::InvalidArgumentError("unknown command");
    }
    if (!status.ok()) return status;
    return "";
  }

  // Makes the next request: files of its own, with their URLs.
  absl::StatusOr<Filled> Fill(Call* call, int send, int receive) {
    ++serial_;
    Filled filled;
    filled.request.set_number(static_cast<uint64_t>(receive));
    filled.request.set_payload(absl::StrCat("server.", serial_));
    std::vector<std::string> contents;
    for (int i = 0; i < send; ++i) {
      const std::string content = absl::StrCat("client.", serial_, ".", i);
      absl::StatusOr<UniqueFd> file = MakeMemoryFile(content);
      if (!file.ok()) return file.status();
      absl::StatusOr<InodeUrl> url = call->fds->SendFd(*std::move(file));
      if (!url.ok()) return url.status();
      filled.request.add_urls(url->ToString());
      contents.push_back(content);
      last_sent_ = url->ToString();
      last_content_ = content;
    }
    filled.wanted = absl::StrJoin(contents, "\n");
    return filled;
  }

  // Reads what came back.
  static absl::Status Check(Call* call, const Filled& filled, const ExchangeReply& reply) {
    if (reply.payload() != filled.wanted) {
      return absl::DataLossError(absl::StrCat("the server read \"", reply.payload(),
                                              "\", expected \"", filled.wanted, "\""));
    }
    if (static_cast<uint64_t>(reply.urls_size()) != filled.request.number()) {
      return absl::DataLossError(absl::StrCat("the server named ", reply.urls_size(),
                                              " descriptors, expected ", filled.request.number()));
    }
    // In reverse: the order in which they are asked for is the asker's.
    for (int i = reply.urls_size() - 1; i >= 0; --i) {
      const std::string wanted = absl::StrCat(filled.request.payload(), ".", i);
      for (int asker = 0; asker < 2; ++asker) {  // A duplicate for each.
        absl::StatusOr<UniqueFd> fd = call->fds->RecvFd(reply.urls(i));
        if (!fd.ok()) return fd.status();
        absl::StatusOr<std::string> content = ContentOf(*fd);
        if (!content.ok()) return content.status();
        if (*content != wanted) {
          return absl::DataLossError(
              absl::StrCat(reply.urls(i), " holds \"", *content, "\", expected \"", wanted, "\""));
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status Unary(int calls, int send, int receive) {
    for (int i = 0; i < calls; ++i) {
      Call call;
      absl::StatusOr<Filled> filled = Fill(&call, send, receive);
      if (!filled.ok()) return filled.status();
      const Nudge nudge(stub_.get(), std::max(send, receive));
      ExchangeReply reply;
      absl::Status status = FromGrpc(stub_->Exchange(&call.context, filled->request, &reply));
      if (status.ok()) status = Check(&call, *filled, reply);
      if (!status.ok()) {
        return absl::Status(status.code(), absl::StrCat("call ", i, ": ", status.message()));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Stream(int calls, int send, int receive) {
    for (int i = 0; i < calls; i += kMessagesPerStream) {
      absl::Status status = OneStream(std::min(calls - i, kMessagesPerStream), send, receive);
      if (!status.ok()) {
        return absl::Status(status.code(),
                            absl::StrCat("stream from message ", i, ": ", status.message()));
      }
    }
    return absl::OkStatus();
  }

  absl::Status OneStream(int messages, int send, int receive) {
    Call call;
    // The first message's descriptors are queued before the call, the others' while it runs.
    absl::StatusOr<Filled> filled = Fill(&call, send, receive);
    if (!filled.ok()) return filled.status();
    const Nudge nudge(stub_.get(), send + receive);
    auto stream = stub_->Chat(&call.context);
    for (int i = 0; i < messages; ++i) {
      if (i > 0) filled = Fill(&call, send, receive);
      ExchangeReply reply;
      if (!filled.ok() || !stream->Write(filled->request) || !stream->Read(&reply)) {
        call.context.TryCancel();
        const absl::Status ended = FromGrpc(stream->Finish());
        return filled.ok() ? ended : filled.status();
      }
      absl::Status status = Check(&call, *filled, reply);
      if (!status.ok()) {
        call.context.TryCancel();
        stream->Finish().ok();
        return status;
      }
    }
    stream->WritesDone();
    ExchangeReply more;
    const bool said_more = stream->Read(&more);
    absl::Status status = FromGrpc(stream->Finish());
    if (said_more) return absl::DataLossError("the server sent more than was asked for");
    return status;
  }

  // Names, in a call that sends nothing, a descriptor that an earlier call sent.
  absl::Status Again() {
    if (last_sent_.empty()) return absl::FailedPreconditionError("nothing was sent before");
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    ExchangeRequest request;
    request.add_urls(last_sent_);
    ExchangeReply reply;
    const grpc::Status status = stub_->Exchange(&context, request, &reply);
    if (!status.ok()) return FromGrpc(status);
    if (reply.payload() != last_content_) {
      return absl::DataLossError(absl::StrCat("the server read \"", reply.payload(),
                                              "\", expected \"", last_content_, "\""));
    }
    return absl::OkStatus();
  }

  Answer Bench(int calls, const std::string& kind) {
    absl::StatusOr<UniqueFd> same = MakeMemoryFile("same");
    if (!same.ok()) return same.status();
    std::vector<double> times;
    for (int i = 0; i < calls; ++i) {
      absl::StatusOr<UniqueFd> fresh;
      if (kind == "fresh") {
        fresh = MakeMemoryFile("fresh");
        if (!fresh.ok()) return fresh.status();
      }
      const auto began = std::chrono::steady_clock::now();
      absl::Status status = BenchCall(kind, fresh.ok() ? *fresh : *same);
      const std::chrono::duration<double, std::micro> took =
          std::chrono::steady_clock::now() - began;
      if (!status.ok()) return status;
      times.push_back(took.count());
    }
    std::sort(times.begin(), times.end());
    const auto at = [&times](double quantile) {
      return times[static_cast<size_t>(quantile * static_cast<double>(times.size() - 1))];
    };
    if (times.empty()) return absl::InvalidArgumentError("no calls");
    return absl::StrFormat("calls=%d p50=%.2f p90=%.2f p99=%.2f", calls, at(0.5), at(0.9),
                           at(0.99));
  }

  absl::Status BenchCall(const std::string& kind, const UniqueFd& fd) {
    grpc::ClientContext context;
    ExchangeRequest request;
    ExchangeReply reply;
    request.set_command(kind == "plain" ? "plain" : "touch");
    if (kind != "plain") {
      absl::StatusOr<InodeUrl> url = FromContext(&context)->SendFd(fd);
      if (!url.ok()) return url.status();
      request.add_urls(url->ToString());
    }
    return FromGrpc(stub_->Exchange(&context, request, &reply));
  }

  const Flags flags_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<TestService::Stub> stub_;
  int serial_ = 0;         // Makes the content of each file its own.
  std::string last_sent_;  // URL and content of a descriptor that was sent earlier.
  std::string last_content_;
};

absl::Status Main(const std::vector<std::string>& arguments) {
  constexpr char kUsage[] =
      "usage: cpp_peer server|client --socket PATH [--cert FILE --key FILE] [--kept N] [--wire "
      "in-band|fdchannel|both]; see tests/interop/go/README.md";
  Flags flags;
  if (arguments.size() % 2 == 0) return absl::InvalidArgumentError(kUsage);
  for (size_t i = 1; i + 1 < arguments.size(); i += 2) {
    const std::string& name = arguments[i];
    const std::string& value = arguments[i + 1];
    if (name == "--socket") {
      flags.socket = value;
    } else if (name == "--cert") {
      flags.certificate = value;
    } else if (name == "--key") {
      flags.key = value;
    } else if (name == "--wire" && (value == "in-band" || value == "both")) {
      flags.wire = value == "both" ? PortWire::kBoth : PortWire::kInBand;
    } else if (name == "--wire" && value == "fdchannel") {
      flags.wire = PortWire::kFdChannel;
    } else if (name != "--kept" || !absl::SimpleAtoi(value, &flags.kept)) {
      return absl::InvalidArgumentError(kUsage);
    }
  }
  if (flags.socket.empty()) return absl::InvalidArgumentError(kUsage);
  if (arguments[0] == "server") return Serve(flags);
  if (arguments[0] == "client") return Client(flags).Run();
  return absl::InvalidArgumentError(kUsage);
}

}  // namespace
}  // namespace grpcfd

int main(int argc, char** argv) {
  const absl::Status status = grpcfd::Main({argv + 1, argv + argc});
  if (status.ok()) return 0;
  std::cout << "FAIL " << status << std::endl;
  return 1;
}
