/* Copyright 2026 The grpcfd Authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * Window, credit, discard and sweeps, for Spin: fdchannel/session/credit_owed.h and send_window.h.
 *
 * One end sends descriptors for ever, one or two at a time. The program at the other end takes
 * them, asks for more, or does nothing at all. Calls that the sender has given up leave stale
 * descriptors, which nobody takes; a sender that has to wait discards them.
 *
 * Checked: no sender waits while its peer has room and is running (ltl room_is_given, with weak
 * fairness). "Running" means that the poller's thread runs; the program may sleep.
 *
 * -DMISTAKE=n builds in a mistake that this finds:
 *   1  credit is given by steps only
 *   2  frames that nobody asks for start no sweep
 *   3  a call that ends is not discarded for a sender that waits already
 */
#ifndef MISTAKE
#define MISTAKE 0
#endif

#define WINDOW 6
#define CALL 2
#define STEP 2     /* So much is owed before credit is given; at most WINDOW - CALL + 1. */
#define DISCARD 0  /* Other frames are the number of their descriptors. */

chan sock = [WINDOW + 1] of { byte };
byte unread;  /* Descriptors in the socket. */

/* The sender: what it wants to send, and what is sent and not credited. */
byte need, used;
bool waits;

/* The receiver. What it has received and given no credit for is held or owed. */
byte held, stale, owed;
byte credit;  /* On its way to the sender. */
bool armed = true, sweep, looked;

#define HAS_ROOM (held - stale + unread + need <= WINDOW)

inline give() { credit = credit + owed; owed = 0 }

/* CreditOwed::due() */
inline give_if_due() {
  if
  :: owed >= STEP -> give()
  :: owed > 0 && owed < STEP && held + owed + CALL > WINDOW && MISTAKE != 1 -> give()
  :: else
  fi
}

/* Takes one frame from the socket. */
inline receive(frame) {
  sock ? frame;
  looked = true;
  if
  :: frame == DISCARD -> held = held - stale; owed = owed + stale; stale = 0
  :: else -> held = held + frame; unread = unread - frame
  fi;
  frame = 0
}

active proctype Sender() {
end:
  do
  :: atomic { need == 0 -> if :: need = 1 :: need = CALL fi }
  :: atomic { credit > 0 -> used = used - credit; credit = 0 }
  :: atomic {
      need > 0 && used + need <= WINDOW && nfull(sock) ->
      sock ! need; used = used + need; unread = unread + need; need = 0; waits = false
    }
  :: atomic {
      need > 0 && used + need > WINDOW && credit == 0 && !waits && nfull(sock) ->
      waits = true; sock ! DISCARD
    }
  od
}

active proctype Program() {
  byte frame; bit idle;
end:
  do
  :: idle = !idle
  :: atomic { nempty(sock) -> receive(frame); give_if_due() }
  :: atomic { held > stale -> held = held - 1; owed = owed + 1; give_if_due() }
  :: atomic {  /* In truth the sender's: one of its calls ends. A waiting sender discards again. */
      held > stale -> stale = stale + 1;
      if :: MISTAKE != 3 -> waits = false :: else fi
    }
  od
}

active proctype Poller() {
  byte frame;
end:
  do
  :: atomic {  /* OnPollerEvent() with nobody waiting. */
      armed && nempty(sock) -> armed = false; looked = false; give();
      sweep = (MISTAKE != 2)
    }
  :: atomic {  /* SweepIfQuiet() */
      sweep -> sweep = false;
      if
      :: !looked ->
        do
        :: nempty(sock) -> receive(frame)
        :: empty(sock) -> break
        od
      :: looked
      fi;
      give(); armed = true
    }
  od
}

ltl room_is_given { [] <> !(need > 0 && HAS_ROOM) }
