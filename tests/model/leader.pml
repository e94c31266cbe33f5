/* Copyright 2026 The grpcfd Authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * Who reads a session's socket: the protocol of fdchannel/session/socket_leader.h, for Spin.
 *
 * What happens under the session's lock is one atomic step here. What happens without it (reading
 * the socket, waiting) is a step of its own, so that anything may come in between.
 *
 * Three waiters:
 *   0 blocks. Its descriptor comes at any time, before or after it asks.
 *   1 blocks. Its descriptor was announced, so it is in the socket when it asks.
 *   2 is asynchronous. Its descriptor comes at any time, or it was announced and is lost.
 *
 * And one event: waiter 1 has a deadline, or its call is cancelled, or ended, or the peer hangs up.
 *
 * Checked:
 *   Unread data plus a waiter implies a leader, a promotion or a watch.
 *   A waiter is settled once, and is told "lost" only if its descriptor was not sent.
 *   No waiter waits for ever (ltl no_waiter_is_forgotten, with weak fairness).
 *
 * -DABSENT=k leaves waiter k out: two at a time are a hundred times fewer states than three.
 * -DMISTAKE=n builds in a mistake that one of these finds:
 *   1  whoever gives the lead up has the socket watched for nobody
 *   2  a look settles those who came after it began
 *   3  the lead is given up, not passed on
 *   4  nobody owes a look to who comes during one
 */
#ifndef MISTAKE
#define MISTAKE 0
#endif

#ifndef ABSENT
#define ABSENT 7
#endif

#define WAITERS 3
#define BLOCKING(i) ((i) < 2)
#define NOBODY 7

mtype = { deadline, cancel, end_call, hang_up };
mtype plan;

chan sock = [3] of { byte };  /* Frames, by whose descriptor they carry. */
bool hung_up;                 /* The peer will send no more. */

/* Of each waiter. */
bool announced[WAITERS];  /* A look that finds the socket empty settles it. */
bool sent[WAITERS];       /* Its frame is in the socket, or was. */
bool here[WAITERS];       /* Its descriptor is in the inbox. */
bool over[WAITERS];       /* Its call was cancelled, or has ended. */
bool listed[WAITERS];
bool asking[WAITERS];     /* Has not seen an empty socket yet. */
bool before[WAITERS];     /* Came before the look under way began. */
bool wants_look[WAITERS];
bool promoted[WAITERS];
byte settled[WAITERS];

/* Of the session: SocketLeader, and the poller. */
bool dead, led, waits, woken, owed, watch_again;
bool armed_in, armed_hup = true;
bool sweep, quiet, look_now, event;

#define late(w) ((w) == 1 && plan == deadline)
hidden byte j;  /* Within a step only. */

#define ANY_LISTED (listed[0] || listed[1] || listed[2])
#define READABLE (nempty(sock) || hung_up)
#define UNREAD_AND_WAITED_FOR (nempty(sock) && ANY_LISTED)
/* A poller that was told, or will be at once, is a watch. */
#define SOMEBODY_SEES (led || armed_in || event || look_now)

inline wake() { if :: waits -> woken = true :: else fi }

inline watch() { armed_in = true; armed_hup = true; watch_again = false }

/* Finish(). `lost`: it is told so. */
inline settle(w, lost) {
  assert(settled[w] == 0);
  assert(!(lost) || !sent[w] || over[w] || dead);
  settled[w] = settled[w] + 1;
  listed[w] = false;
  asking[w] = false;
  here[w] = false;
  if :: promoted[w] -> wake() :: else fi
}

/* Enlist(), and then RunWaiter() or EnlistAsync() take the lead if it is free. */
inline enlist(w) {
  listed[w] = true;
  asking[w] = true;
  before[w] = false;
  if
  :: announced[w] && MISTAKE != 4 -> owed = true; wake()
  :: else
  fi;
  if
  :: !led && BLOCKING(w) -> led = true; promoted[w] = true
  :: !led && !BLOCKING(w) -> led = true; drains = true
  :: led
  fi
}

inline pass_lead() {
  if
  :: listed[0] && MISTAKE != 3 -> promoted[0] = true
  :: listed[1] && MISTAKE != 3 -> promoted[1] = true
  :: else ->
    led = false;
    if
    :: (listed[2] && MISTAKE != 1) || watch_again -> watch()
    :: else
    fi;
    if :: listed[2] && owed -> look_now = true :: else fi
  fi
}

inline settle_all() {
  dead = true;
  for (j : 0 .. WAITERS - 1) {
    if :: listed[j] -> settle(j, false) :: else fi
  }
  wake()
}

inline settle_asking() {
  for (j : 0 .. WAITERS - 1) {
    if
    :: asking[j] && (before[j] || MISTAKE == 2) ->
      if
      :: announced[j] || wants_look[j] -> settle(j, announced[j])
      :: else -> asking[j] = false
      fi
    :: else
    fi
  }
}

/* One look: Pump(). `found` is whose frame it was, NOBODY for none. */
inline look(found, asked) {
  atomic {
    /* BeginLook(). What comes between it and the reading of the socket may as well come before or
     * after both, so they are one step. */
    asked = owed; owed = false; quiet = false;
    before[0] = true; before[1] = true; before[2] = true;
    if
    :: nempty(sock) -> sock ? found
    :: empty(sock) -> found = NOBODY
    fi;
    ended = (found == NOBODY && hung_up)
  }
  atomic {
    if
    :: dead
    :: !dead && found != NOBODY ->
      owed = owed || asked;
      if
      :: listed[found] -> settle(found, false)
      :: else -> here[found] = true
      fi
    :: !dead && found == NOBODY && ended -> settle_all()
    :: !dead && found == NOBODY && !ended ->
      settle_asking()
    fi;
    before[0] = false; before[1] = false; before[2] = false; asked = false; ended = false
  }
}

/* Drain(), by whoever has just taken the lead. */
inline drain_and_pass(found, asked) {
  do
  :: look(found, asked);
    if
    :: dead -> break
    :: !dead && found == NOBODY && !owed -> break
    :: else
    fi
  od;
  atomic { found = 0; drains = false; pass_lead() }
}

/* TryReceive(): the first look, before it is a waiter. It may settle the waiter, which is then not
 * listed. Otherwise the lead is passed on and the waiter enlisted in one step. */
inline try_receive(w, found, asked) {
  atomic {
    if
    :: here[w] || over[w] || dead -> settle(w, false)
    :: else ->
      if
      :: led -> enlist(w)
      :: else -> led = true; leading = true
      fi
    fi
  }
  do
  :: leading ->
    look(found, asked);
    atomic {
      if
      :: here[w] || over[w] || dead -> settle(w, false); leading = false; pass_lead()
      :: else ->
        if
        :: found != NOBODY
        :: found == NOBODY && announced[w] -> settle(w, true); leading = false; pass_lead()
        :: found == NOBODY && !announced[w] -> leading = false; pass_lead(); enlist(w)
        fi
      fi
    }
  :: !leading -> break
  od;
  found = 0
}

proctype Blocking(byte w) {
  byte found; bool asked, ended, leading, drains, wait;
  /* What is announced is in the socket before anybody can ask. */
  !announced[w] || sent[w] || hung_up;
  try_receive(w, found, asked);
  do
  :: settled[w] != 0 -> break
  :: settled[w] == 0 ->
    if
    :: promoted[w] && settled[w] == 0 ->  /* LeadOnce(). */
      look(found, asked);
      atomic {
        wait = false;
        if
        :: settled[w] == 0 && found == NOBODY ->
          if
          :: late(w) -> settle(w, false)
          :: !owed -> waits = true; wait = true
          :: owed
          fi
        :: else
        fi;
        found = 0
      }
      if
      :: wait -> READABLE || woken || late(w); woken = false
      :: else
      fi;
      atomic { if :: wait -> waits = false; wait = false :: else fi }
    :: !promoted[w] && settled[w] == 0 ->  /* FollowOnce(). */
      settled[w] != 0 || promoted[w] || late(w);
      atomic {
        if
        :: settled[w] != 0 || promoted[w]
        :: else -> wants_look[w] = true; owed = true; wake()  /* AwaitLook(). */
        fi
      }
      if
      :: settled[w] != 0 || promoted[w]
      :: !asking[w] || late(w) ->  /* Looked, or out of patience. */
        atomic {
          if
          :: settled[w] == 0 && !promoted[w] -> settle(w, false)
          :: else
          fi
        }
      fi
    :: settled[w] != 0
    fi
  od;
  atomic { if :: promoted[w] -> promoted[w] = false; pass_lead() :: else fi }
}

proctype Asynchronous(byte w) {
  byte found; bool asked, ended, leading, drains;
  try_receive(w, found, asked);
  if
  :: drains -> drain_and_pass(found, asked)
  :: else
  fi
}

/* Sends the descriptors in any order, and hangs up, perhaps. */
proctype Peer() {
  do
  :: atomic { !sent[0] -> sent[0] = true; sock ! 0 }
  :: atomic { !sent[1] -> sent[1] = true; sock ! 1 }
  :: atomic { !sent[2] && !announced[2] -> sent[2] = true; sock ! 2 }
  :: atomic { sent[0] && sent[1] && (sent[2] || announced[2]) -> break }
  :: atomic { plan == hang_up -> hung_up = true; break }
  od
}

/* Cancels the call of waiter 1, or ends it, which reads the socket first. */
proctype Disturber() {
  byte found; bool asked, ended, drains;
  if
  :: plan == end_call ->
    atomic { if :: !led -> led = true; drains = true :: else fi }
    if
    :: drains -> drain_and_pass(found, asked)
    :: else
    fi
  :: else
  fi;
  atomic {
    if
    :: plan == cancel || plan == end_call ->
      over[1] = true;
      if :: listed[1] -> settle(1, false) :: else fi
    :: else
    fi
  }
}

proctype Poller() {
  byte found; bool asked, ended, drains;
end:
  do
  :: atomic {  /* epoll_wait returns: EPOLLONESHOT. */
      !drains && ((armed_in && READABLE) || (armed_hup && hung_up)) ->
      armed_in = false; armed_hup = false; event = true
    }
  :: atomic {  /* OnPollerEvent(). */
      event && !drains -> event = false;
      if
      :: led -> watch_again = true
      :: !led && (hung_up || ANY_LISTED) -> watch_again = true; led = true; drains = true
      :: !led && !hung_up && !ANY_LISTED -> sweep = true; quiet = true; armed_hup = true
      fi
    }
  :: atomic {  /* SweepIfQuiet(), and what PassLead() has run. */
      (sweep || look_now) && !drains -> watch_again = true;
      if
      :: led
      :: !led && (quiet || look_now || dead) -> led = true; drains = true
      :: !led && !quiet && !look_now && !dead -> watch()
      fi;
      sweep = false; look_now = false
    }
  :: drains -> drain_and_pass(found, asked)
  od
}

init {
  atomic {
    announced[1] = true;
    if :: announced[2] = true :: announced[2] = false fi;
    if :: plan = deadline :: plan = cancel :: plan = end_call :: plan = hang_up fi;
    armed_in = true;
    run Peer();
    run Poller();
    if
    :: plan == cancel || plan == end_call -> run Disturber()
    :: else
    fi;
    if :: ABSENT != 0 -> run Blocking(0) :: else -> sent[0] = true; settled[0] = 1 fi;
    if :: ABSENT != 1 -> run Blocking(1) :: else -> sent[1] = true; settled[1] = 1 fi;
    if :: ABSENT != 2 -> run Asynchronous(2) :: else -> sent[2] = true; settled[2] = 1 fi
  }
}

#ifdef SAFETY
/* Between two steps only, as the lock is free only then. */
active proctype Watchdog() {
end:
  atomic { UNREAD_AND_WAITED_FOR && !SOMEBODY_SEES -> assert(false) }
}
#else
ltl no_waiter_is_forgotten { <> (settled[0] == 1 && settled[1] == 1 && settled[2] == 1) }
#endif
