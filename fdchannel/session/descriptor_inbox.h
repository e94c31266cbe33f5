// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// DescriptorInbox: what one call has received, and the answer to a request for one of its
// descriptors.
//
// It holds no lock and makes no system call: the session that it is attached to guards it, and
// closes what it gives out.
#ifndef GRPCFD_FDCHANNEL_SESSION_DESCRIPTOR_INBOX_H_
#define GRPCFD_FDCHANNEL_SESSION_DESCRIPTOR_INBOX_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "fdchannel/fds/fd_facts.h"
#include "fdchannel/session/waiter.h"
#include "fdchannel/wire/frame.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/receive_policy.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// For messages: "call 17 attempt 2".
std::string CallName(const CallKey& key);

class Session;

// A client's call, as the session that it goes by sees it. Thread-safe.
class InboxOwner {
 public:
  virtual ~InboxOwner() = default;
  // A server has the call: what was kept in case that it asks again need not be any more.
  virtual void OnLanded() = 0;
  // The server of `session` has the call, and not what it brought. Never blocks; ends with
  // Session::AnswerResend.
  virtual void SendAgain(const std::shared_ptr<Session>& session, const CallKey& key) = 0;
};

// Thread-compatible; guarded by the mutex of its session once it is attached. It must be ended
// (Session::End) before it is destroyed.
//
// Long because what a receive may find has many outcomes, and each is an enumerator with its
// meaning.
class DescriptorInbox {
 public:
  // How many descriptors of one call are remembered, with taken and refused ones. They are
  // forgotten from the lowest index up, so a peer that leaves one out could have them grow for
  // ever.
  static constexpr size_t kMostSlots = 1 << 16;
  // Slots that are remembered one by one, gone or not.
  static constexpr size_t kRemembered = 64;
  // How many are forgotten at once, at least.
  static constexpr uint32_t kForgottenAtOnce = 64;

  struct Slot {
    uint32_t index;
    bool taken = false;
    bool refused = false;  // By the policy: closed, never given out.
    DevIno dev_ino;
    FdFacts facts;
    UniqueFd fd;

    Slot(uint32_t its_index, const DevIno& its_file, const FdFacts& its_facts, UniqueFd&& its_fd)
        : index(its_index), dev_ino(its_file), facts(its_facts), fd(std::move(its_fd)) {}
    bool gone() const { return taken || refused; }
  };

  // The answer to a request for a descriptor.
  enum class Answer {
    kHere,
    kWait,       // It may still come.
    kFailed,     // The call has failed, or ended.
    kOtherFile,  // The index is another file's.
    kRefused,
    kTaken,
    kDead,  // It is not here, and the session is dead.
    kCancelled,
    kNotSent,   // The peer sent fewer, and can send no more.
    kCallOver,  // The peer has ended the call without it.
    kLeftOut,   // By the process that forwarded it.
    kLost,      // It was announced, and is not in the socket.
    kNoSuchFile,
  };
  struct Finding {
    Answer answer;
    Slot* slot;  // For kHere, kOtherFile and kRefused.
  };

  // `policy` decides what of its descriptors may be had; null accepts all.
  explicit DescriptorInbox(CallKey key, std::shared_ptr<const ReceivePolicy> policy = nullptr)
      : key_(key), policy_(std::move(policy)) {}
  DescriptorInbox(const DescriptorInbox&) = delete;
  DescriptorInbox& operator=(const DescriptorInbox&) = delete;

  // Before it is attached.
  void SetOwner(std::weak_ptr<InboxOwner> owner) { owner_ = std::move(owner); }
  std::shared_ptr<InboxOwner> owner() const { return owner_.lock(); }

  const CallKey& key() const { return key_; }
  const ReceivePolicy* policy() const { return policy_.get(); }
  bool attached() const { return attached_; }
  bool ended() const { return ended_; }
  bool over() const { return over_; }
  bool sends_cancelled() const { return sends_cancelled_; }
  // The client was asked for all of the call again: what has come already may come once more.
  bool may_repeat() const { return may_repeat_; }
  void MayRepeat() { may_repeat_ = true; }
  uint32_t announced() const { return announced_ - holes_; }
  // Why the call's descriptors cannot be had; OK if they can.
  const absl::Status& failure() const { return failure_; }

  // The call begins. Below `announced` are the indices that the peer has sent before, all but
  // `holes` of them; `open_ended` says whether it may send more.
  void Begin(uint32_t announced, uint32_t holes, bool open_ended);
  // Takes over what came before the call.
  void Inherit(DescriptorInbox* early);
  // Keeps the first reason.
  void Fail(absl::Status status) {
    if (failure_.ok()) failure_ = std::move(status);
  }
  void End(const absl::Status& status) {
    ended_ = true;
    failure_ = status;
  }
  void Cancel() { cancelled_ = true; }
  void CancelSends() { sends_cancelled_ = true; }
  // The call is over at the peer: what it sent is here, or in the socket.
  void Complete() { over_ = true; }

  // Whether all that was announced has come.
  bool AnnouncedCame() const { return came_ >= announced_ - holes_; }
  // Whether finding the socket empty settles a waiter for `url`.
  bool LookSettles(const InodeUrl& url) const;

  Slot* Find(uint32_t index) {
    if (slots_.empty()) return nullptr;
    // Nearly always they came in their order, and none is missing.
    const uint32_t place = index - slots_.front().index;
    if (place < slots_.size() && slots_[place].index == index) return &slots_[place];
    return FindOutOfPlace(index);
  }
  // The slot that a receive of `url` gets at once; null if Seek() has to tell.
  Slot* Ready(const InodeUrl& url) {
    if (!url.index().has_value() || !failure_.ok()) return nullptr;
    Slot* const slot = Find(*url.index());
    return slot != nullptr && !slot->gone() && slot->dev_ino == url.dev_ino() ? slot : nullptr;
  }
  // What a receive of `url` finds. `drained`: the socket was found empty since it asked; `alive`:
  // the session is. The URL names a descriptor of the call.
  Finding Seek(const InodeUrl& url, bool drained, bool alive) {
    if (Slot* const slot = Ready(url); slot != nullptr) return {Answer::kHere, slot};
    return SeekOther(url, drained, alive);
  }
  // The error for an answer other than kHere, kWait and kDead.
  absl::Status Explain(const Finding& finding, const InodeUrl& url, const std::string& peer) const;
  // Whether a descriptor of this file has come.
  bool Knows(const DevIno& dev_ino) const;
  // The URLs, by index, of what was not taken.
  std::vector<InodeUrl> Untaken();

  // Whether all indices from `first` on are new and higher than any that came: the usual case.
  bool AboveAll(uint32_t first) const {
    return slots_.empty() ? first >= forgotten_below_ : first > slots_.back().index;
  }
  bool Came(uint32_t index) { return index < forgotten_below_ || Find(index) != nullptr; }
  // Makes room for so many in one piece, if there are none yet.
  void Reserve(size_t count) {
    if (slots_.empty() && count > slots_.capacity()) slots_.reserve(count);
  }
  // Enters one that has not come before. The pointer is valid until the next change.
  Slot* Add(uint32_t index, const DevIno& dev_ino, const FdFacts& facts, UniqueFd fd) {
    if (index < announced_) ++came_;
    if (AboveAll(index)) return &slots_.emplace_back(index, dev_ino, facts, std::move(fd));
    return AddLate(Slot(index, dev_ino, facts, std::move(fd)));
  }
  // Whether the call's policy refuses it.
  bool Refuses(const Slot& slot) const {
    return policy_ != nullptr && !Accepts(*policy_, slot.facts, slot.index);
  }
  // Takes the descriptor of `slot`, which has one. The slot may then be forgotten.
  UniqueFd Take(Slot* slot) {
    slot->taken = true;
    UniqueFd fd = std::move(slot->fd);
    ++taken_;
    // With fewer there is nothing to forget, unless the policy has refused some.
    if (taken_ >= kForgottenAtOnce || policy_ != nullptr) Tidy();
    return fd;
  }
  // Forgets those at the low end that are gone, if they are many. False if too many are left.
  bool Tidy() { return slots() <= kRemembered || ForgetGone(); }
  bool holds_any() const { return !slots_.empty(); }
  size_t slots() const { return slots_.size() + late_.size(); }
  // The lowest index that is not known to be gone: after a Tidy() that failed, one that was left
  // out.
  uint32_t lowest() const { return gone_below_; }
  // Calls visit(Slot*) for each slot, by index.
  template <typename Visit>
  void ForEach(Visit visit);
  void Clear();

  // Who waits for its descriptors.
  WaiterList<&Waiter::in_inbox>* waiters() { return &waiters_; }

 private:
  friend class CallTable;
  struct Match {
    Slot* slot = nullptr;
    bool refused = false;
    bool taken = false;
    bool other_file = false;
  };
  Slot* FindOutOfPlace(uint32_t index);
  Finding SeekOther(const InodeUrl& url, bool drained, bool alive);
  Match MatchIndex(const InodeUrl& url);
  Match MatchFile(const InodeUrl& url);
  Answer Classify(const Match& match, const InodeUrl& url, bool drained, bool alive) const;
  Answer ClassifyMissing(const InodeUrl& url, bool drained) const;
  Slot* AddLate(Slot slot);
  bool ForgetGone();
  void SkipGone();
  bool open_ended() const { return open_ended_ && !over_; }

  const CallKey key_;
  const std::shared_ptr<const ReceivePolicy> policy_;
  std::weak_ptr<InboxOwner> owner_;
  bool attached_ = false;
  bool ended_ = false;
  bool cancelled_ = false;
  bool sends_cancelled_ = false;
  bool may_repeat_ = false;
  bool open_ended_ = true;
  bool over_ = false;
  uint32_t announced_ = 0;
  uint32_t holes_ = 0;
  uint32_t came_ = 0;  // Of those below announced_.
  absl::Status failure_;
  // By index. Taken ones stay, so that asking again is told apart from asking too early.
  absl::InlinedVector<Slot, 1> slots_;
  // Those that came after one with a higher index. Apart, since an insertion at the front of
  // slots_ moves all of it, and a peer could have each descriptor do so.
  absl::btree_map<uint32_t, Slot> late_;
  // All indices below were taken or refused, and are forgotten.
  uint32_t forgotten_below_ = 0;
  // All indices below are gone, among them the first gone_ of slots_. Looked at once, not each
  // time.
  uint32_t gone_below_ = 0;
  size_t gone_ = 0;
  uint32_t taken_ = 0;  // Of slots_ and late_.
  WaiterList<&Waiter::in_inbox> waiters_;
  DescriptorInbox* next_in_table_ = nullptr;  // CallTable's.
};

template <typename Visit>
void DescriptorInbox::ForEach(Visit visit) {
  auto late = late_.begin();
  for (Slot& slot : slots_) {
    for (; late != late_.end() && late->first < slot.index; ++late) visit(&late->second);
    visit(&slot);
  }
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_DESCRIPTOR_INBOX_H_
