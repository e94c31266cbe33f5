// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/calls/client_call.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_format.h"

namespace grpcfd {
namespace internal {
namespace {

absl::Status RequestSent() {
  return absl::FailedPreconditionError(
      "the call has sent its request: only streams of requests send descriptors later");
}

}  // namespace

// What an attempt leaves behind; to be ended without the lock.
struct ClientCall::FormerAttempt {
  std::shared_ptr<CallTransport> transport;
  // The session that the call has left. Its peer may drop what came for the call; not if attempts
  // may share a session: it would then also drop what the next one brings.
  std::shared_ptr<Session> left;

  FormerAttempt() = default;
  FormerAttempt(const FormerAttempt&) = delete;
  FormerAttempt& operator=(const FormerAttempt&) = delete;
  ~FormerAttempt() {
    if (transport != nullptr) transport->End(/*sent=*/left != nullptr);
    if (left != nullptr) left->TellDiscards();
  }
};

ClientCall::~ClientCall() {
  // The last reference is gone: no other thread is in here, and no lock is needed.
  if (transport_ != nullptr) transport_->End(/*sent=*/indices_.next() != 0);
}

// --- Sending ---

absl::StatusOr<InodeUrl> ClientCall::Enqueue(const DevIno& dev_ino, UniqueFd fd) {
  const uint32_t limit = start_.limits.max_fds_per_call;
  if (phase_ == Phase::kStarting && queue_.size() >= limit) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the call has not reached %s yet, and until then holds at most max_fds_per_call = %d "
        "descriptors: send more once it runs, or raise the limit%s",
        start_.by_connection ? "a connection" : "its server", limit,
        start_.by_connection ? "" : " at both ends"));
  }
  InodeUrl url(dev_ino);
  if (!start_.by_connection) {
    auto next = NextUrl(dev_ino);
    if (!next.ok()) return next.status();
    url = *next;
  }
  queue_.Append(IndexedFd{url, std::move(fd)});
  return url;
}

bool ClientCall::keeps() const {
  return (start_.per_attempt || until_landed_) && !queue_.released();
}

bool ClientCall::QueuesWhileStarting() const {
  return phase_ == Phase::kStarting && (keeps() || start_.by_connection);
}

absl::StatusOr<InodeUrl> ClientCall::Send(BorrowedFd fd, UniqueFd* adopted) {
  const auto dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  UniqueFd owned;  // These two outlive the lock.
  IndexedFds given_up;
  if (adopted != nullptr) {
    owned = std::move(*adopted);
  } else {
    auto copy = fd.Dup();
    if (!copy.ok()) return copy.status();
    owned = *std::move(copy);
  }
  MutexLock lock(&mutex_);
  if (phase_ == Phase::kQueueing) return Enqueue(*dev_ino, std::move(owned));
  if (phase_ == Phase::kWithout) return without_;
  if (!start_.client_streams) return RequestSent();
  if (!over_.ok()) return over_;
  // The first attempt, for which a call that waits for ready may have to wait long, takes it along.
  if (QueuesWhileStarting()) return Enqueue(*dev_ino, std::move(owned));
  const auto started = Started(absl::InfiniteFuture());
  if (!started.ok()) return started.status();
  const std::shared_ptr<CallTransport>& transport = *started;
  InodeUrl url(*dev_ino);
  if (transport->indexed()) {
    auto next = NextUrl(*dev_ino);
    if (!next.ok()) return next.status();
    url = *next;
  }
  sent_ = true;
  // As gRPC does with messages, a call that has sent much is not kept for another attempt.
  if (KeptAreTooMany()) queue_.Release(&given_up);
  const bool kept = keeps();
  const BorrowedFd sending(owned.get());
  UniqueFd* const given = kept ? nullptr : &owned;
  if (kept) {
    queue_.Insert(IndexedFd{url, std::move(owned)});
    queue_.BeginUse();
  }
  const WaitOptions options = Until(absl::InfiniteFuture());
  lock.Unlock();
  absl::Status status = transport->Send(url, sending, given, options);
  lock.Lock();
  if (kept) queue_.EndUse(&given_up);
  if (status.ok() || (kept && BroughtAnyway(transport.get(), status))) return url;
  if (!url.has_index()) return status;
  // An index that was not used leaves no hole, unless another sender has the next one already.
  if (!kept || queue_.released()) {
    indices_.GiveBack(*url.index());
  } else if (!queue_.in_use()) {  // No attempt brings it, or is about to.
    given_up.push_back(queue_.Remove(url));
    indices_.GiveBack(*url.index());
  }
  return status;
}

bool ClientCall::BroughtAnyway(const CallTransport* transport, const absl::Status& status) const {
  // The attempt is lost, and takes the call with it unless there is another; that one brings it, or
  // does so already.
  return transport_.get() != transport || (!queue_.released() && absl::IsUnavailable(status));
}

bool ClientCall::KeptAreTooMany() const {
  return keeps() && queue_.size() >=
                        std::min<size_t>(start_.limits.max_fds_per_call, transport_->max_to_send());
}

// --- Forwarding ---

bool ClientCall::indexed() const {
  MutexLock lock(&mutex_);
  return !start_.by_connection;
}

bool ClientCall::AnyCame() const {
  std::shared_ptr<CallTransport> transport;
  {
    MutexLock lock(&mutex_);
    transport = transport_;
  }
  return transport != nullptr && transport->AnyCame();
}

absl::StatusOr<std::vector<InodeUrl>> ClientCall::Arrived() {
  std::shared_ptr<CallTransport> transport;
  {
    MutexLock lock(&mutex_);
    if (phase_ == Phase::kWithout) return std::vector<InodeUrl>();  // It had no session.
    auto started = Started(absl::InfinitePast());
    if (!started.ok()) return started.status();
    transport = *std::move(started);
  }
  return transport->Arrived();
}

absl::Status ClientCall::ClaimIndices(std::vector<InodeUrl>* urls) {
  MutexLock lock(&mutex_);
  if (!forward_failure_.ok()) return forward_failure_;
  if (urls->empty()) return absl::OkStatus();
  if (phase_ != Phase::kQueueing) {
    if (!QueuesWhileStarting()) {
      const auto started = Started(absl::InfiniteFuture());
      if (!started.ok()) return started.status();
    }
    if (!start_.client_streams) return RequestSent();
  }
  return indices_.ClaimIndices(urls);
}

size_t ClientCall::MaxAtOnce() {
  MutexLock lock(&mutex_);
  return start_.limits.max_fds_per_call;
}

size_t ClientCall::Room(size_t max_at_once) {
  MutexLock lock(&mutex_);
  if (QueuesWhileStarting()) {
    max_at_once = start_.limits.max_fds_per_call;
  } else if (phase_ != Phase::kQueueing) {
    return std::numeric_limits<size_t>::max();
  }
  return max_at_once - std::min(max_at_once, queue_.size());
}

bool ClientCall::MustNotWait() {
  MutexLock lock(&mutex_);
  return phase_ != Phase::kQueueing;
}

std::shared_ptr<Reaper> ClientCall::reaper() {
  MutexLock lock(&mutex_);
  return transport_ == nullptr ? nullptr : transport_->reaper();
}

absl::Status ClientCall::SendClaimed(IndexedFds fds) {
  MutexLock lock(&mutex_);
  if (phase_ != Phase::kQueueing) {
    return absl::FailedPreconditionError(
        "the call was made by another thread while its descriptors were being forwarded");
  }
  queue_.Insert(std::move(fds));
  return absl::OkStatus();
}

void ClientCall::SendClaimedLater(IndexedFd fd, std::function<void()> done) {
  std::shared_ptr<CallTransport> transport;
  absl::Time deadline;
  IndexedFds given_up;  // Outlives the lock.
  bool kept = false;
  {
    MutexLock lock(&mutex_);
    if (QueuesWhileStarting()) {
      // The first attempt takes it along.
      queue_.Insert(IndexedFd{fd.url, std::move(fd.fd)});
    } else if (auto started = Started(absl::InfiniteFuture()); !started.ok()) {
      forward_failure_ = started.status();
    } else {
      transport = *std::move(started);
      deadline = Limit(absl::InfiniteFuture());
      if (KeptAreTooMany()) queue_.Release(&given_up);
      if (keeps()) {
        // A duplicate: what waits to be sent must not be closed with the call.
        auto copy = BorrowedFd(fd.fd.get()).Dup();
        kept = copy.ok();
        if (kept) {
          queue_.Insert(IndexedFd{fd.url, ReapedFd(*std::move(copy), fd.fd.reaper())});
        } else {
          queue_.Release(&given_up);
        }
      }
    }
  }
  if (transport == nullptr) return done();
  // Not a shared_ptr: the call ends with its context, also while something waits.
  transport->SendLater(std::move(fd), deadline,
                       [weak = weak_from_this(), kept, transport,
                        done = std::move(done)](const absl::Status& status) {
                         if (auto self = weak.lock(); self != nullptr && !status.ok()) {
                           MutexLock lock(&self->mutex_);
                           if (!kept || !self->BroughtAnyway(transport.get(), status)) {
                             self->forward_failure_.Update(status);
                           }
                         }
                         done();
                       });
}

absl::Status ClientCall::Preload(const std::vector<UniqueFd>& fds,
                                 const std::vector<InodeUrl>& urls) {
  std::vector<UniqueFd> copies;
  copies.reserve(fds.size());
  for (const UniqueFd& fd : fds) {
    auto copy = BorrowedFd(fd).Dup();
    if (!copy.ok()) return copy.status();
    copies.push_back(*std::move(copy));
  }
  if (fds.empty()) return absl::OkStatus();
  MutexLock lock(&mutex_);
  if (phase_ == Phase::kWithout) return without_;
  if (phase_ != Phase::kQueueing || indices_.next() != 0) {
    return absl::FailedPreconditionError(
        "the descriptors of PerRpcCredentials must be a call's first, and this call has others "
        "already, or has started: set the credentials before FromContext, and only one that "
        "carries descriptors");
  }
  for (size_t i = 0; i < copies.size(); ++i) {
    const auto url = Enqueue(urls[i].dev_ino(), std::move(copies[i]));
    if (!url.ok()) return url.status();
  }
  return absl::OkStatus();
}

bool ClientCall::has_queued() const {
  MutexLock lock(&mutex_);
  return !queue_.empty();
}

bool ClientCall::has_descriptors() const {
  MutexLock lock(&mutex_);
  return indices_.used() != 0;
}

bool ClientCall::begun() const {
  MutexLock lock(&mutex_);
  return phase_ != Phase::kQueueing;
}

bool ClientCall::begun_for(const void* rpc) const {
  MutexLock lock(&mutex_);
  return phase_ != Phase::kQueueing && start_.rpc == rpc && grpc_call_ == nullptr;
}

bool ClientCall::starting() const {
  MutexLock lock(&mutex_);
  return phase_ == Phase::kStarting;
}

ClientCall::Start ClientCall::start() const {
  MutexLock lock(&mutex_);
  return start_;
}

bool ClientCall::bound() const {
  MutexLock lock(&mutex_);
  return grpc_call_ != nullptr;
}

bool ClientCall::BindTo(const void* grpc_call) {
  MutexLock lock(&mutex_);
  if (grpc_call_ == nullptr) grpc_call_ = grpc_call;
  return grpc_call_ == grpc_call;
}

bool ClientCall::BindBegun(const void* grpc_call) {
  MutexLock lock(&mutex_);
  if (phase_ == Phase::kQueueing || grpc_call_ != nullptr) return false;
  grpc_call_ = grpc_call;
  return true;
}

std::vector<InodeUrl> ClientCall::queued_urls() const {
  MutexLock lock(&mutex_);
  std::vector<InodeUrl> urls;
  urls.reserve(queue_.size());
  for (const IndexedFd& queued : queue_.fds()) urls.push_back(queued.url);
  return urls;
}

// --- Starting ---

absl::Status ClientCall::BeginStart(const Start& start) {
  MutexLock lock(&mutex_);
  if (phase_ != Phase::kQueueing) {
    if (grpc_call_ == nullptr) {
      if (start.rpc != nullptr && start_.rpc == start.rpc) {
        return absl::AlreadyExistsError("the call was started by another factory of its channel");
      }
      if (phase_ == Phase::kWithout) return without_;
    }
    return absl::FailedPreconditionError(
        "a second call was started with the descriptors of one: a ClientContext serves one call, "
        "and so does its FromContext; PerRpcCredentials serve many");
  }
  phase_ = Phase::kStarting;
  start_ = start;
  deadline_ = start.deadline;
  recv_timeout_ = start.limits.recv_timeout;
  if (indices_.used() > start.limits.max_fds_per_call) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the call has %d descriptors, more than max_fds_per_call = %d of its "
                        "channel; raise the limit at both ends, or use several calls",
                        indices_.used(), start.limits.max_fds_per_call));
  }
  return absl::OkStatus();
}

void ClientCall::SetWithout(const absl::Status& why) {
  phase_ = Phase::kWithout;
  without_ = why;
  started_.NotifyAll();
}

void ClientCall::Begun(const CallMetadata& said, IndexedFds* given_up) {
  said_ = said;
  phase_ = Phase::kStarted;
  // The descriptors are in the socket. Closing may block, so the caller does it without the lock.
  if (!keeps()) queue_.Release(given_up);
  started_.NotifyAll();
}

absl::StatusOr<std::shared_ptr<SessionTransport>> ClientCall::BeginAttempt(
    const std::shared_ptr<Session>& session, uint64_t call_id, FormerAttempt* former) {
  if (given_up_) return absl::CancelledError("the call was given up");
  if (queue_.released() && (indices_.used() != 0 || !start_.per_attempt)) {
    if (phase_ == Phase::kWithout) return without_;
    return absl::ResourceExhaustedError(
        absl::StrFormat("an attempt of the call failed, and its descriptors are gone: it had sent "
                        "%d, and no more than max_fds_per_call = %d are kept for another attempt; "
                        "make the call again, or raise the limit at both ends",
                        indices_.used(), start_.limits.max_fds_per_call));
  }
  if (start_.per_attempt && transport_ != nullptr) {
    ++key_.attempt;
  } else {
    key_.id = call_id;
  }
  attempt_waits_ = false;
  return GoBy(session, former);
}

std::shared_ptr<SessionTransport> ClientCall::GoBy(const std::shared_ptr<Session>& session,
                                                   FormerAttempt* former) {
  std::shared_ptr<SessionTransport> transport;
  if (start_.per_attempt || own_transport_.has_value()) {
    // A thread that cancels the call may still be about to tell the last session so, with the
    // transport of that one.
    transport = std::make_shared<SessionTransport>(session, key_, session->policy());
  } else {
    own_transport_.emplace(session, key_, session->policy());
    transport = std::shared_ptr<SessionTransport>(std::shared_ptr<void>(), &*own_transport_);
  }
  if (session->resends()) {
    transport->SetOwner(weak_from_this());
    // A call that is made once, and brings nothing any more, has nothing to keep.
    until_landed_ =
        session->keeps() && !start_.per_attempt && (!queue_.empty() || start_.client_streams);
  }
  session_ = session.get();
  former->transport = std::exchange(transport_, transport);
  return transport;
}

bool ClientCall::TryStartOn(const std::shared_ptr<Session>& session, uint64_t call_id,
                            absl::StatusOr<CallMetadata>* result) {
  FormerAttempt former;  // These two outlive the lock.
  IndexedFds given_up;
  MutexLock lock(&mutex_);
  const auto transport = BeginAttempt(session, call_id, &former);
  absl::Status status = transport.status();
  if (status.ok()) {
    absl::InlinedVector<int, 16> numbers;
    for (const IndexedFd& queued : queue_.fds()) numbers.push_back(queued.fd.get());
    if (!session->TryBegin((*transport)->inbox(), queue_.indices(), numbers, &status)) return false;
  }
  if (status.ok()) {
    *result = (*transport)->Metadata(queue_.count(), queue_.holes());
    Begun(**result, &given_up);
  } else {
    *result = std::move(status);
  }
  return true;
}

// An attempt whose descriptors may have to wait.
struct ClientCall::WaitingAttempt : std::enable_shared_from_this<WaitingAttempt> {
  std::shared_ptr<ClientCall> call;
  std::shared_ptr<SessionTransport> transport;
  std::vector<uint32_t> indices;  // Of what was sent, and is being sent; ascending.
  absl::Time deadline;
  StartCallback done;

  void Send(const Indices& which, std::vector<int> numbers) {
    transport->session().SendAsync(
        transport->key(), which, std::move(numbers), deadline,
        [self = shared_from_this()](absl::Status sent) { self->OnSent(std::move(sent)); });
  }
  void OnSent(absl::Status sent);
  // Adds what came to the queue meanwhile. INVALID_ARGUMENT if all that is too many for the peer.
  absl::Status AddLatecomers(std::vector<uint32_t>* more, std::vector<int>* numbers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(call->mutex_);
  uint32_t count() const { return indices.empty() ? 0 : indices.back() + 1; }
  CallMetadata Metadata() const {
    return transport->Metadata(count(), count() - static_cast<uint32_t>(indices.size()));
  }
};

void ClientCall::StartOnAsync(const std::shared_ptr<Session>& session, uint64_t call_id,
                              StartCallback done) {
  auto attempt = std::make_shared<WaitingAttempt>();
  attempt->done = std::move(done);
  std::vector<int> numbers;
  absl::Status status;
  {
    FormerAttempt former;  // Outlives the lock.
    MutexLock lock(&mutex_);
    auto transport = BeginAttempt(session, call_id, &former);
    status = transport.status();
    if (status.ok()) {
      attempt->call = shared_from_this();
      attempt->transport = *std::move(transport);
      // As Session::TryBegin does it.
      attempt->transport->Attach(/*announced=*/0, /*open_ended=*/true);
      attempt->indices = IndicesOf(queue_.fds());
      attempt->deadline = Limit(absl::InfiniteFuture());
      numbers = NumbersOf(queue_.fds());
      queue_.DefaultTo(session->reaper());
      // The session waits with numbers. Whoever gives the call up meanwhile must not close them: by
      // the time one is sent it could be another file's.
      queue_.BeginUse();
      attempt_waits_ = true;
    }
  }
  if (!status.ok()) return attempt->done(std::move(status));
  attempt->Send(Indices(attempt->indices), std::move(numbers));
}

absl::Status ClientCall::WaitingAttempt::AddLatecomers(std::vector<uint32_t>* more,
                                                       std::vector<int>* numbers) {
  call->queue_.DefaultTo(transport->reaper());
  for (const IndexedFd& queued : call->queue_.fds()) {
    if (std::binary_search(indices.begin(), indices.end(), *queued.url.index())) continue;
    more->push_back(*queued.url.index());
    numbers->push_back(queued.fd.get());
  }
  const auto middle = static_cast<ptrdiff_t>(indices.size());
  indices.insert(indices.end(), more->begin(), more->end());
  std::inplace_merge(indices.begin(), indices.begin() + middle, indices.end());
  if (indices.size() <= transport->max_to_send()) return absl::OkStatus();
  return transport->session().CheckSend(indices.size());
}

void ClientCall::WaitingAttempt::OnSent(absl::Status sent) {
  IndexedFds given_up;  // Outlives the lock.
  std::vector<uint32_t> more;
  std::vector<int> numbers;
  {
    MutexLock lock(&call->mutex_);
    call->queue_.EndUse(&given_up);
    const bool latest = call->transport_ == transport;
    if (sent.ok() && call->phase_ == Phase::kWithout &&
        (!indices.empty() || !call->start_.per_attempt)) {
      sent = call->without_;  // Given up.
    }
    // What the stream has sent meanwhile left it to this attempt. Before the attempt may begin, as
    // all that it announces.
    if (sent.ok() && latest && call->phase_ == Phase::kStarting) {
      sent = AddLatecomers(&more, &numbers);
    }
    if (sent.ok() && !more.empty()) {
      call->queue_.BeginUse();
    } else if (latest) {
      call->attempt_waits_ = false;
      if (sent.ok()) call->Begun(Metadata(), &given_up);
    }
  }
  given_up.clear();  // Before the callers are told that they were sent.
  if (!sent.ok()) return done(std::move(sent));
  if (!more.empty()) return Send(Indices(std::move(more)), std::move(numbers));
  done(Metadata());
}

// --- Where the call is ---

void ClientCall::OnLanded() {
  IndexedFds given_up;  // Outlives the lock.
  FdVector fds;
  std::shared_ptr<Reaper> reaper;
  {
    MutexLock lock(&mutex_);
    if (!until_landed_) return;  // Attempts keep theirs for each other.
    queue_.Release(&given_up);
    reaper = transport_->reaper();
  }
  // Not in place, although they are the program's own: this is a thread that others wait for.
  for (IndexedFd& one : given_up) fds.push_back(one.fd.Take());
  if (!fds.empty()) reaper->Close(std::move(fds), /*after=*/nullptr);
}

void ClientCall::SendAgain(const std::shared_ptr<Session>& session, const CallKey& key) {
  std::vector<int> numbers;
  std::vector<uint32_t> indices;
  absl::Time deadline;
  ResendOutcome at_once = ResendOutcome::kSent;
  bool send = false;
  {
    FormerAttempt former;  // Outlives the lock.
    MutexLock lock(&mutex_);
    const bool gone = queue_.released() && indices_.used() != 0;
    if (phase_ != Phase::kStarted || !(key == key_) || given_up_ || gone) {
      at_once = ResendOutcome::kGone;
    } else {
      // The same session, if the server had to close them before the RPC came.
      if (session_ != session.get()) {
        if (!start_.per_attempt) {
          former.left =
              static_cast<SessionTransport*>(transport_.get())->session().shared_from_this();
        }
        GoBy(session, &former)->Attach(/*announced=*/0, /*open_ended=*/true);
      }
      indices = IndicesOf(queue_.fds());
      numbers = NumbersOf(queue_.fds());
      deadline = Limit(absl::InfiniteFuture());
      send = !numbers.empty();
      if (send) queue_.BeginUse();
    }
  }
  if (!send) return session->AnswerResend(key, at_once);
  session->SendAsync(key, Indices(std::move(indices)), std::move(numbers), deadline,
                     [self = shared_from_this(), session, key](const absl::Status& sent) {
                       IndexedFds given_up;  // Outlives the lock.
                       {
                         MutexLock lock(&self->mutex_);
                         self->queue_.EndUse(&given_up);
                       }
                       session->AnswerResend(
                           key, sent.ok() ? ResendOutcome::kSent : ResendOutcome::kGone);
                     });
}

absl::Status ClientCall::InspectQueue(
    absl::FunctionRef<absl::Status(const IndexedFds&)> look) const {
  MutexLock lock(&mutex_);
  return look(queue_.fds());
}

absl::Status ClientCall::StartOnConnection(const std::shared_ptr<CallTransport>& transport,
                                           absl::FunctionRef<absl::Status(IndexedFds*)> send) {
  IndexedFds queued;  // These two outlive the lock.
  std::shared_ptr<CallTransport> former;
  MutexLock lock(&mutex_);
  if (phase_ == Phase::kWithout) return without_;
  if (!over_.ok()) return over_;
  if (transport == nullptr) return absl::OkStatus();  // The peer has them all.
  if (sent_) {
    return absl::UnavailableError(
        "the call's descriptors went with a connection that is gone, and this attempt has another "
        "one: a new call brings them anew");
  }
  former = std::exchange(transport_, transport);
  sent_ = !queue_.empty();
  queue_.Release(&queued);
  // Before another thread can queue with this call.
  absl::Status status = queued.empty() ? absl::OkStatus() : send(&queued);
  if (status.ok()) {
    phase_ = Phase::kStarted;
    started_.NotifyAll();
  } else {
    SetWithout(status);
  }
  return status;
}

// --- Ending ---

void ClientCall::FailStart(const absl::Status& why) {
  IndexedFds given_up;  // Outlives the lock.
  std::shared_ptr<CallTransport> transport;
  {
    MutexLock lock(&mutex_);
    queue_.Release(&given_up);
    SetWithout(why);
    transport = transport_;
  }
  if (transport != nullptr) transport->CancelSends();
}

void ClientCall::Commit(const absl::Status& why) {
  IndexedFds given_up;  // Outlives the lock.
  std::shared_ptr<CallTransport> waiting;
  {
    MutexLock lock(&mutex_);
    queue_.Release(&given_up);
    // It gives up its place in the line; but what a stream sends in its course stays there.
    if (attempt_waits_) waiting = transport_;
    if (phase_ == Phase::kStarting) SetWithout(why);
  }
  if (waiting != nullptr) waiting->CancelSends();
}

void ClientCall::GiveUp() {
  std::shared_ptr<CallTransport> waiting;
  {
    MutexLock lock(&mutex_);
    given_up_ = true;
    if (attempt_waits_) waiting = transport_;
  }
  if (waiting != nullptr) waiting->CancelSends();
}

std::shared_ptr<CallTransport> ClientCall::EndSending(const absl::Status& over,
                                                      const absl::Status& without) {
  IndexedFds given_up;  // Outlives the lock.
  MutexLock lock(&mutex_);
  if (over_.ok()) over_ = over;
  if (start_.by_connection && transport_ == nullptr && phase_ == Phase::kStarting) {
    queue_.Release(&given_up);
    SetWithout(without);
  }
  return transport_;
}

void ClientCall::OnCancelled() {
  const absl::Status cancelled = absl::CancelledError("the call was cancelled");
  if (const auto transport = EndSending(cancelled, cancelled)) transport->Cancel();
}

void ClientCall::OnEnded() {
  const auto transport = EndSending(
      absl::FailedPreconditionError("the call has ended: nothing can be sent with it"),
      absl::UnavailableError("the call ended before it had a connection, and nothing can have come "
                             "back"));
  if (transport != nullptr) transport->Complete();
}

CallMetadata ClientCall::metadata() const {
  MutexLock lock(&mutex_);
  return phase_ == Phase::kStarted ? said_ : CallMetadata();
}

// --- Receiving ---

absl::StatusOr<std::shared_ptr<CallTransport>> ClientCall::Started(absl::Time deadline) {
  if (phase_ == Phase::kQueueing) {
    return absl::FailedPreconditionError(
        "the call has not started: nothing can have come back yet");
  }
  if (phase_ == Phase::kStarting) deadline = Limit(deadline);
  while (phase_ == Phase::kStarting) {
    if (!started_.WaitUntil(&mutex_, deadline) && phase_ == Phase::kStarting) {
      return absl::DeadlineExceededError(start_.by_connection
                                             ? "the call has not reached a connection in time"
                                             : "the session with the server was not there in time");
    }
  }
  if (phase_ == Phase::kWithout) return without_;
  return transport_;
}

bool ClientCall::IsCurrent(const std::shared_ptr<CallTransport>& transport) const {
  MutexLock lock(&mutex_);
  return transport_ == transport;
}

absl::StatusOr<UniqueFd> ClientCall::Receive(const InodeUrl& url, absl::Time deadline,
                                             CallTransport::Op op) {
  for (;;) {
    std::shared_ptr<CallTransport> transport;
    WaitOptions options;
    {
      MutexLock lock(&mutex_);
      if (phase_ != Phase::kStarted) {
        const auto started = Started(deadline);
        if (!started.ok()) return started.status();
      }
      transport = transport_;
      options = Until(deadline);
    }
    auto fd = transport->Receive(url, op, options);
    // An attempt that fails ends what waits in it. What waits for the call goes on with the next.
    if (fd.ok() || IsCurrent(transport)) return fd;
  }
}

void ClientCall::ReceiveFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) {
  std::shared_ptr<CallTransport> transport;
  bool may_be_replaced = false;
  absl::Time limit;
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    // Never blocks: a call that is still starting has nothing to wait for with.
    if (phase_ == Phase::kStarting) {
      status = absl::FailedPreconditionError("the call has not started yet");
    } else if (auto started = Started(deadline); started.ok()) {
      transport = *std::move(started);
      may_be_replaced = start_.per_attempt || start_.by_connection || session_->keeps();
      limit = Limit(deadline);
    } else {
      status = started.status();
    }
  }
  if (!status.ok()) return done(std::move(status));
  if (!may_be_replaced) return transport->ReceiveAsync(url, limit, std::move(done));
  transport->ReceiveAsync(url, limit,
                          [weak = weak_from_this(), transport, url, deadline,
                           done = std::move(done)](absl::StatusOr<UniqueFd> fd) mutable {
                            if (!fd.ok()) {
                              // As in Receive.
                              auto self = weak.lock();
                              if (self != nullptr && !self->IsCurrent(transport)) {
                                return self->ReceiveFdAsync(url, deadline, std::move(done));
                              }
                            }
                            done(std::move(fd));
                          });
}

}  // namespace internal
}  // namespace grpcfd
