// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/calls/client_call.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "fdchannel/fds/send_file.h"

namespace grpcfd {
namespace internal {
namespace {

absl::Status RequestSent() {
  return absl::FailedPreconditionError(
      "the call has sent its request: only streams of requests send descriptors later");
}

CallMetadata MetadataOf(const Session& session, const CallKey& key, uint32_t count,
                        uint32_t holes) {
  CallMetadata metadata;
  metadata.attempt = key.attempt;
  metadata.count = count;
  metadata.holes = holes;
  metadata.call_id = key.id;
  metadata.session_id = session.id();
  metadata.token = session.token();
  return metadata;
}

}  // namespace

ClientCall::~ClientCall() {
  // The last reference is gone, so nobody else is in here. The lock is for the analysis.
  MutexLock lock(&mutex_);
  if (session_ != nullptr) session_->End(inbox_.get(), /*sent=*/indices_.next() != 0);
}

absl::StatusOr<InodeUrl> ClientCall::SendFd(BorrowedFd fd) {
  if (const auto other = carrier()) return other->SendFd(fd);
  return Send(fd, nullptr);
}

absl::StatusOr<InodeUrl> ClientCall::SendFd(UniqueFd&& fd) {
  if (const auto other = carrier()) return other->SendFd(std::move(fd));
  UniqueFd adopted = std::move(fd);
  return Send(BorrowedFd(adopted), &adopted);
}

absl::StatusOr<InodeUrl> ClientCall::SendFilename(const std::string& path, int flags) {
  absl::StatusOr<UniqueFd> fd = OpenForSending(path, flags);
  if (!fd.ok()) return fd.status();
  return SendFd(*std::move(fd));
}

absl::StatusOr<InodeUrl> ClientCall::Enqueue(const DevIno& dev_ino, UniqueFd fd) {
  if (indices_.exhausted()) return IndicesExhausted();
  queue_.push_back(IndexedFd{InodeUrl(dev_ino, indices_.Take()), std::move(fd)});
  return queue_.back().url;
}

absl::StatusOr<InodeUrl> ClientCall::Send(BorrowedFd fd, UniqueFd* adopted) {
  const auto dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  UniqueFd queued;
  IndexedFds done_with;  // Outlives the lock.
  {
    MutexLock lock(&mutex_);
    if (phase_ == Phase::kQueueing && adopted != nullptr) {
      return Enqueue(*dev_ino, std::move(*adopted));
    }
  }
  if (adopted == nullptr) {
    auto copy = fd.Dup();
    if (!copy.ok()) return copy.status();
    queued = *std::move(copy);
  } else {
    queued = std::move(*adopted);
  }

  MutexLock lock(&mutex_);
  if (phase_ == Phase::kQueueing) return Enqueue(*dev_ino, std::move(queued));
  if (phase_ == Phase::kStarting && keeps() && start_.client_streams) {
    // The first attempt, for which a call that waits for ready may have to wait long, takes it
    // along.
    if (queue_.size() >= start_.limits.max_fds_per_call) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("the call has not reached its server yet, and until then holds at most "
                          "max_fds_per_call = %d descriptors: send more once it runs, or raise the "
                          "limit at both ends",
                          start_.limits.max_fds_per_call));
    }
    return Enqueue(*dev_ino, std::move(queued));
  }
  auto session = Started(absl::InfiniteFuture());
  if (!session.ok()) return session.status();
  if (!start_.client_streams) {
    return RequestSent();
  }
  if (indices_.exhausted()) return IndicesExhausted();
  // As gRPC does with messages, a call that has sent much is not kept for another attempt.
  if (KeptAreTooMany(**session)) ReleaseKept(&done_with);
  const bool kept = keeps();
  const uint32_t index = indices_.Take();
  const InodeUrl url(*dev_ino, index);
  const int number = queued.get();
  if (kept) {
    InsertByIndex(IndexedFd{url, std::move(queued)});
    ++sending_;
  }
  const std::shared_ptr<CallInbox> inbox = inbox_;
  const WaitOptions options = Until(absl::InfiniteFuture());
  lock.Unlock();
  absl::Status status =
      (*session)->Send(inbox->key(), index, absl::MakeConstSpan(&number, 1), options);
  lock.Lock();
  if (kept) DoneSending(&done_with);
  if (status.ok()) return url;
  // The attempt is lost, and takes the call with it unless there is another; that one brings it, or
  // does so already.
  if (kept && (inbox_ != inbox || (!released_ && absl::IsUnavailable(status)))) return url;
  // An index that was not used leaves no hole, unless another sender has the next one already.
  if (!kept || released_) {
    indices_.GiveBack(index);
  } else if (sending_ == 0) {  // No attempt brings it, or is about to.
    const auto at = std::find_if(queue_.begin(), queue_.end(),
                                 [&url](const IndexedFd& one) { return one.url == url; });
    done_with.push_back(std::move(*at));
    queue_.erase(at);
    indices_.GiveBack(index);
  }
  return status;
}

// --- Forwarding ---

absl::StatusOr<std::vector<InodeUrl>> ClientCall::Arrived() {
  std::shared_ptr<Session> session;
  std::shared_ptr<CallInbox> inbox;
  {
    MutexLock lock(&mutex_);
    if (phase_ == Phase::kWithout) return std::vector<InodeUrl>();  // It had no session.
    auto started = Started(absl::InfinitePast());
    if (!started.ok()) return started.status();
    session = *std::move(started);
    inbox = inbox_;
  }
  return session->Arrived(inbox.get());
}

absl::Status ClientCall::ClaimIndices(std::vector<InodeUrl>* urls) {
  MutexLock lock(&mutex_);
  if (!forward_failure_.ok()) return forward_failure_;
  if (urls->empty()) return absl::OkStatus();
  if (phase_ == Phase::kStarting && keeps()) {
    if (!start_.client_streams) return RequestSent();
  } else if (phase_ != Phase::kQueueing) {
    auto session = Started(absl::InfiniteFuture());
    if (!session.ok()) return session.status();
    if (!start_.client_streams) return RequestSent();
  }
  return indices_.ClaimIndices(urls);
}

void ClientCall::UnclaimIndex(uint32_t index) {
  MutexLock lock(&mutex_);
  indices_.UnclaimIndex(index);
}

size_t ClientCall::MaxAtOnce() {
  MutexLock lock(&mutex_);
  return start_.limits.max_fds_per_call;
}

size_t ClientCall::Room(size_t max_at_once) {
  MutexLock lock(&mutex_);
  if (phase_ == Phase::kStarting && keeps()) {
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
  return session_ == nullptr ? nullptr : session_->reaper();
}

absl::Status ClientCall::SendClaimed(IndexedFds fds) {
  IndexedFds queue;
  MutexLock lock(&mutex_);
  if (phase_ != Phase::kQueueing) {
    return absl::FailedPreconditionError(
        "the call was made by another thread while its descriptors were being forwarded");
  }
  queue.swap(queue_);
  std::merge(std::make_move_iterator(queue.begin()), std::make_move_iterator(queue.end()),
             std::make_move_iterator(fds.begin()), std::make_move_iterator(fds.end()),
             std::back_inserter(queue_), [](const IndexedFd& a, const IndexedFd& b) {
               return *a.url.index() < *b.url.index();
             });
  return absl::OkStatus();
}

void ClientCall::SendClaimedLater(IndexedFd fd, std::function<void()> done) {
  std::shared_ptr<Session> session;
  std::shared_ptr<CallInbox> inbox;
  absl::Time deadline;
  IndexedFds done_with;  // Outlives the lock.
  bool kept = false;
  {
    MutexLock lock(&mutex_);
    if (phase_ == Phase::kStarting && keeps()) {
      // The first attempt takes it along.
      InsertByIndex(IndexedFd{fd.url, std::move(fd.fd)});
    } else if (auto started = Started(absl::InfiniteFuture()); !started.ok()) {
      forward_failure_ = started.status();
    } else {
      session = *std::move(started);
      inbox = inbox_;
      deadline = Limit(absl::InfiniteFuture());
      if (KeptAreTooMany(*session)) ReleaseKept(&done_with);
      if (keeps()) {
        // A duplicate: what waits to be sent must not be closed with the call.
        auto copy = BorrowedFd(fd.fd.get()).Dup();
        kept = copy.ok();
        if (kept) {
          InsertByIndex(IndexedFd{fd.url, ReapedFd(*std::move(copy), fd.fd.reaper())});
        } else {
          ReleaseKept(&done_with);
        }
      }
    }
  }
  if (session == nullptr) return done();
  // Not a shared_ptr: the call ends with its context, also while something waits.
  SendForwardedLater(
      session.get(), inbox->key(), std::move(fd), deadline,
      [weak = weak_from_this(), kept, inbox, done = std::move(done)](const absl::Status& status) {
        if (auto self = weak.lock(); self != nullptr && !status.ok()) {
          MutexLock lock(&self->mutex_);
          // As in Send: the next attempt brings it.
          const bool brought =
              kept && (self->inbox_ != inbox || (!self->released_ && absl::IsUnavailable(status)));
          if (!brought) self->forward_failure_.Update(status);
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
  return phase_ != Phase::kQueueing && start_.rpc == rpc && transport_call_ == nullptr;
}

bool ClientCall::starting() const {
  MutexLock lock(&mutex_);
  return phase_ == Phase::kStarting;
}

bool ClientCall::per_attempt() const {
  MutexLock lock(&mutex_);
  return start_.per_attempt;
}

absl::Time ClientCall::deadline() const {
  MutexLock lock(&mutex_);
  return start_.deadline;
}

bool ClientCall::bound() const {
  MutexLock lock(&mutex_);
  return transport_call_ != nullptr;
}

bool ClientCall::BindTo(const void* transport_call) {
  MutexLock lock(&mutex_);
  if (transport_call_ == nullptr) transport_call_ = transport_call;
  return transport_call_ == transport_call;
}

bool ClientCall::BindBegun(const void* transport_call) {
  if (has_carrier_) return false;
  MutexLock lock(&mutex_);
  if (phase_ == Phase::kQueueing || transport_call_ != nullptr) return false;
  transport_call_ = transport_call;
  return true;
}

std::vector<InodeUrl> ClientCall::queued_urls() const {
  MutexLock lock(&mutex_);
  std::vector<InodeUrl> urls;
  urls.reserve(queue_.size());
  for (const IndexedFd& queued : queue_) urls.push_back(queued.url);
  return urls;
}

// --- Starting ---

absl::Status ClientCall::BeginStart(const Start& start) {
  MutexLock lock(&mutex_);
  if (phase_ != Phase::kQueueing) {
    if (transport_call_ == nullptr) {
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
  if (indices_.used() > start.limits.max_fds_per_call) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the call has %d descriptors, more than max_fds_per_call = %d of its "
                        "channel; raise the limit at both ends, or use several calls",
                        indices_.used(), start.limits.max_fds_per_call));
  }
  return absl::OkStatus();
}

Indices ClientCall::QueuedIndices() const {
  // As nearly always: 0, 1, 2 and so on.
  if (queue_.empty() || *queue_.back().url.index() == queue_.size() - 1) return Indices(0);
  return Indices(IndicesOf(queue_));
}

void ClientCall::Begun(uint32_t announced, uint32_t holes, IndexedFds* done_with) {
  announced_ = announced;
  holes_ = holes;
  phase_ = Phase::kStarted;
  // The descriptors are in the socket. Closing may block, so the caller does it without the lock.
  if (!start_.per_attempt) ReleaseKept(done_with);
  started_.NotifyAll();
}

void ClientCall::FailStart(const absl::Status& why) {
  IndexedFds done_with;  // Outlives the lock, as does this:
  std::shared_ptr<CallCarrier> carrier;
  std::shared_ptr<Session> session;
  std::shared_ptr<CallInbox> inbox;
  {
    MutexLock lock(&mutex_);
    carrier.swap(carrier_);
    ReleaseKept(&done_with);
    phase_ = Phase::kWithout;
    without_ = why;
    started_.NotifyAll();
    session = session_;
    inbox = inbox_;
  }
  // Somebody may wait in there.
  if (carrier != nullptr) carrier->Abandon(why);
  if (session != nullptr) session->CancelSends(inbox.get());
}

std::shared_ptr<CallCarrier> ClientCall::StartBy(const MakeCarrier& make) {
  MutexLock lock(&mutex_);
  carrier_ = make(std::exchange(queue_, {}));
  has_carrier_ = true;
  phase_ = Phase::kStarted;
  started_.NotifyAll();
  return carrier_;
}

std::shared_ptr<CallCarrier> ClientCall::carrier() const {
  if (!has_carrier_) return nullptr;
  MutexLock lock(&mutex_);
  return carrier_;
}

void ClientCall::OnCancelled() {
  if (const auto other = carrier()) return other->OnCancelled();
  std::shared_ptr<Session> session;
  std::shared_ptr<CallInbox> inbox;
  {
    MutexLock lock(&mutex_);
    session = session_;
    inbox = inbox_;
  }
  if (session != nullptr && inbox != nullptr) session->Cancel(inbox.get());
}

void ClientCall::OnEnded() {
  if (const auto other = carrier()) return other->OnEnded();
  std::shared_ptr<Session> session;
  std::shared_ptr<CallInbox> inbox;
  {
    MutexLock lock(&mutex_);
    session = session_;
    inbox = inbox_;
  }
  if (session != nullptr && inbox != nullptr) session->Complete(inbox.get());
}

CallMetadata ClientCall::metadata() const {
  MutexLock lock(&mutex_);
  if (phase_ != Phase::kStarted || inbox_ == nullptr) return CallMetadata();
  return MetadataOf(*session_, inbox_->key(), announced_, holes_);
}

// --- Attempts ---

ClientCall::FormerAttempt::~FormerAttempt() {
  // Not "sent": that would have the peer drop what the next attempt brings too, as they share the
  // call's id.
  if (inbox != nullptr) session->End(inbox.get(), /*sent=*/false);
}

void ClientCall::ReleaseKept(IndexedFds* done_with) {
  released_ = true;
  if (sending_ == 0) done_with->swap(queue_);
}

bool ClientCall::KeptAreTooMany(const Session& session) const {
  return keeps() && queue_.size() >= std::min(start_.limits.max_fds_per_call,
                                              session.remote_limits().max_fds_per_call);
}

void ClientCall::InsertByIndex(IndexedFd fd) {
  const auto at = std::upper_bound(
      queue_.begin(), queue_.end(), fd,
      [](const IndexedFd& a, const IndexedFd& b) { return *a.url.index() < *b.url.index(); });
  queue_.insert(at, std::move(fd));
}

void ClientCall::DoneSending(IndexedFds* done_with) {
  if (--sending_ == 0 && released_) done_with->swap(queue_);
}

CallKey ClientCall::NextKey(uint64_t call_id) const {
  CallKey key;
  key.id = call_id;
  if (start_.per_attempt && inbox_ != nullptr) {
    key.id = inbox_->key().id;
    key.attempt = inbox_->key().attempt + 1;
  }
  return key;
}

absl::Status ClientCall::BeginAttempt(const std::shared_ptr<Session>& session, uint64_t call_id,
                                      FormerAttempt* former) {
  if (given_up_) return absl::CancelledError("the call was given up");
  if (released_ && (indices_.used() != 0 || !start_.per_attempt)) {
    if (phase_ == Phase::kWithout) return without_;
    return absl::ResourceExhaustedError(
        absl::StrFormat("an attempt of the call failed, and its descriptors are gone: it had sent "
                        "%d, and no more than max_fds_per_call = %d are kept for another attempt; "
                        "make the call again, or raise the limit at both ends",
                        indices_.used(), start_.limits.max_fds_per_call));
  }
  const CallKey key = NextKey(call_id);
  former->session = std::exchange(session_, session);
  former->inbox = std::move(inbox_);
  if (!start_.per_attempt && !own_inbox_.has_value()) {
    own_inbox_.emplace(key, session->policy());
    inbox_ = std::shared_ptr<CallInbox>(std::shared_ptr<void>(), &*own_inbox_);
  } else {
    // Whoever cancels the call may still be about to tell the last session so, and have that one's
    // inbox.
    inbox_ = std::make_shared<CallInbox>(key, session->policy());
  }
  attempt_waits_ = false;
  // A server announces nothing beforehand, and the client cannot know that it has sent its last.
  session_->Attach(inbox_.get(), /*announced=*/0, /*open_ended=*/true);
  return absl::OkStatus();
}

bool ClientCall::TryStartOn(const std::shared_ptr<Session>& session, uint64_t call_id,
                            absl::StatusOr<CallMetadata>* result) {
  FormerAttempt former;  // These two outlive the lock.
  IndexedFds done_with;
  MutexLock lock(&mutex_);
  absl::Status status = BeginAttempt(session, call_id, &former);
  if (status.ok()) {
    absl::InlinedVector<int, 16> numbers;
    for (const IndexedFd& queued : queue_) numbers.push_back(queued.fd.get());
    if (!session->TrySend(inbox_->key(), QueuedIndices(), numbers, &status)) return false;
  }
  if (status.ok()) {
    const uint32_t announced = queue_.empty() ? 0 : *queue_.back().url.index() + 1;
    Begun(announced, announced - static_cast<uint32_t>(queue_.size()), &done_with);
    *result = MetadataOf(*session, inbox_->key(), announced_, holes_);
  } else {
    *result = std::move(status);
  }
  return true;
}

// An attempt whose descriptors may have to wait.
struct ClientCall::WaitingAttempt {
  std::shared_ptr<Session> session;
  std::shared_ptr<CallInbox> inbox;
  std::vector<uint32_t> indices;  // Of what was sent, and is being sent; ascending.
  absl::Time deadline;
  StartCallback done;
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
    status = BeginAttempt(session, call_id, &former);
    if (status.ok()) {
      for (IndexedFd& one : queue_) one.fd.DefaultTo(session->reaper());
      attempt->session = session;
      attempt->inbox = inbox_;
      attempt->indices = IndicesOf(queue_);
      attempt->deadline = Limit(absl::InfiniteFuture());
      numbers = NumbersOf(queue_);
      // The session waits with numbers. Whoever gives the call up meanwhile must not close them: by
      // the time one is sent it could be another file's.
      ++sending_;
      attempt_waits_ = true;
    }
  }
  if (!status.ok()) return attempt->done(std::move(status));
  SendForAttempt(attempt, Indices(attempt->indices), std::move(numbers));
}

void ClientCall::SendForAttempt(const std::shared_ptr<WaitingAttempt>& attempt,
                                const Indices& indices, std::vector<int> numbers) {
  attempt->session->SendAsync(attempt->inbox->key(), indices, std::move(numbers), attempt->deadline,
                              [self = shared_from_this(), attempt](absl::Status sent) {
                                self->OnSentForAttempt(attempt, std::move(sent));
                              });
}

absl::Status ClientCall::AddLatecomers(WaitingAttempt* attempt, std::vector<uint32_t>* more,
                                       std::vector<int>* numbers) {
  std::vector<uint32_t>& indices = attempt->indices;
  for (IndexedFd& queued : queue_) {
    if (std::binary_search(indices.begin(), indices.end(), *queued.url.index())) continue;
    queued.fd.DefaultTo(attempt->session->reaper());
    more->push_back(*queued.url.index());
    numbers->push_back(queued.fd.get());
  }
  const auto middle = static_cast<ptrdiff_t>(indices.size());
  indices.insert(indices.end(), more->begin(), more->end());
  std::inplace_merge(indices.begin(), indices.begin() + middle, indices.end());
  if (indices.size() <= attempt->session->remote_limits().max_fds_per_call) {
    return absl::OkStatus();
  }
  return attempt->session->CheckSend(indices.size());
}

void ClientCall::OnSentForAttempt(const std::shared_ptr<WaitingAttempt>& attempt,
                                  absl::Status sent) {
  IndexedFds done_with;  // Outlives the lock.
  std::vector<uint32_t> more;
  std::vector<int> numbers;
  const std::vector<uint32_t>& indices = attempt->indices;
  uint32_t count = 0;
  {
    MutexLock lock(&mutex_);
    DoneSending(&done_with);
    const bool latest = inbox_ == attempt->inbox;
    if (sent.ok() && phase_ == Phase::kWithout && (!indices.empty() || !start_.per_attempt)) {
      sent = without_;  // Given up.
    }
    // What the stream has sent meanwhile left it to this attempt. Before the attempt may begin, as
    // all that it announces.
    if (sent.ok() && latest && phase_ == Phase::kStarting) {
      sent = AddLatecomers(attempt.get(), &more, &numbers);
    }
    count = indices.empty() ? 0 : indices.back() + 1;
    if (sent.ok() && !more.empty()) {
      ++sending_;
    } else if (latest) {
      attempt_waits_ = false;
      if (sent.ok()) Begun(count, count - static_cast<uint32_t>(indices.size()), &done_with);
    }
  }
  if (!sent.ok()) return attempt->done(std::move(sent));
  if (!more.empty()) return SendForAttempt(attempt, Indices(std::move(more)), std::move(numbers));
  attempt->done(MetadataOf(*attempt->session, attempt->inbox->key(), count,
                           count - static_cast<uint32_t>(indices.size())));
}

void ClientCall::Commit(const absl::Status& why) {
  IndexedFds done_with;  // Outlives the lock.
  std::shared_ptr<Session> waits_with;
  std::shared_ptr<CallInbox> inbox;
  {
    MutexLock lock(&mutex_);
    ReleaseKept(&done_with);
    // Its place in the line is others'; but what a stream sends in its course stays there.
    if (attempt_waits_) waits_with = session_;
    inbox = inbox_;
    if (phase_ == Phase::kStarting) {
      phase_ = Phase::kWithout;
      without_ = why;
      started_.NotifyAll();
    }
  }
  if (waits_with != nullptr) waits_with->CancelSends(inbox.get());
}

void ClientCall::GiveUp() {
  std::shared_ptr<Session> waits_with;
  std::shared_ptr<CallInbox> inbox;
  {
    MutexLock lock(&mutex_);
    given_up_ = true;
    if (attempt_waits_) waits_with = session_;
    inbox = inbox_;
  }
  if (waits_with != nullptr) waits_with->CancelSends(inbox.get());
}

bool ClientCall::IsCurrent(const std::shared_ptr<CallInbox>& inbox) const {
  MutexLock lock(&mutex_);
  return inbox_ == inbox;
}

// --- The started call ---

absl::StatusOr<std::shared_ptr<Session>> ClientCall::Started(absl::Time deadline) {
  if (phase_ == Phase::kQueueing) {
    return absl::FailedPreconditionError(
        "the call has not started: nothing can have come back yet");
  }
  if (phase_ == Phase::kStarting) deadline = Limit(deadline);
  while (phase_ == Phase::kStarting) {
    if (!started_.WaitUntil(&mutex_, deadline) && phase_ == Phase::kStarting) {
      return absl::DeadlineExceededError("the session with the server was not there in time");
    }
  }
  if (phase_ == Phase::kWithout) return without_;
  if (session_ == nullptr) {
    return absl::FailedPreconditionError(
        "the call's descriptors go on gRPC's own connection (Wire::kInBand): what comes there "
        "belongs to no call, and cannot be forwarded");
  }
  return session_;
}

// --- Receiving ---

WaitOptions ClientCall::Until(absl::Time deadline) const {
  WaitOptions options;
  options.deadline = std::min(deadline, start_.deadline);
  options.patience = start_.limits.recv_timeout;
  return options;
}

absl::Time ClientCall::Limit(absl::Time deadline) const {
  deadline = std::min(deadline, start_.deadline);
  return deadline == absl::InfiniteFuture() ? absl::Now() + start_.limits.recv_timeout : deadline;
}

absl::StatusOr<UniqueFd> ClientCall::Receive(const InodeUrl& url, absl::Time deadline,
                                             Session::Op op) {
  for (;;) {
    std::shared_ptr<Session> session;
    std::shared_ptr<CallInbox> inbox;
    WaitOptions options;
    {
      MutexLock lock(&mutex_);
      auto started = Started(deadline);
      if (!started.ok()) return started.status();
      session = *std::move(started);
      inbox = inbox_;
      options = Until(deadline);
    }
    auto fd = session->Receive(inbox.get(), url, op, options);
    // An attempt that fails ends what waits in it. What waits for the call goes on with the next.
    if (fd.ok() || IsCurrent(inbox)) return fd;
  }
}

absl::StatusOr<UniqueFd> ClientCall::RecvFd(const InodeUrl& url, absl::Time deadline) {
  if (const auto other = carrier()) return other->RecvFd(url, deadline);
  return Receive(url, deadline, Session::Op::kTake);
}

absl::StatusOr<UniqueFd> ClientCall::DupFd(const InodeUrl& url, absl::Time deadline) {
  if (const auto other = carrier()) return other->DupFd(url, deadline);
  return Receive(url, deadline, Session::Op::kDup);
}

void ClientCall::RecvFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) {
  if (const auto other = carrier()) return other->RecvFdAsync(url, deadline, std::move(done));
  std::shared_ptr<Session> session;
  CallInbox* raw = nullptr;
  std::shared_ptr<CallInbox> inbox;  // Calls per attempt only: theirs may be replaced.
  absl::Time limit;
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    // Never blocks: a call that is still starting has nothing to wait for with.
    if (phase_ == Phase::kStarting) {
      status = absl::FailedPreconditionError("the call has not started yet");
    } else if (auto started = Started(deadline); started.ok()) {
      session = *std::move(started);
      if (start_.per_attempt) inbox = inbox_;
      raw = inbox_.get();
      limit = Limit(deadline);
    } else {
      status = started.status();
    }
  }
  if (!status.ok()) return done(std::move(status));
  if (inbox == nullptr) {
    session->ReceiveAsync(raw, url, Session::Op::kTake, limit, std::move(done));
    return;
  }
  session->ReceiveAsync(raw, url, Session::Op::kTake, limit,
                        [weak = weak_from_this(), inbox, url, deadline,
                         done = std::move(done)](absl::StatusOr<UniqueFd> fd) mutable {
                          if (!fd.ok()) {
                            // As in Receive.
                            auto self = weak.lock();
                            if (self != nullptr && !self->IsCurrent(inbox)) {
                              return self->RecvFdAsync(url, deadline, std::move(done));
                            }
                          }
                          done(std::move(fd));
                        });
}

}  // namespace internal
}  // namespace grpcfd
