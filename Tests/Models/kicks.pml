/* Does a poll thread that sleeps always learn of what a driver made available, and of its mailbox's work?
 *
 * Thread: PollLoop.rest (armKicks, the second look), PollThread.sleep (isAsleep, the second look), WorkQueue.serve.
 * Driver: makes entries available, kicks where the device asked for it (EVENT_IDX).
 * Control: Mailbox.run (WorkQueue.post, Mailbox.wake); its work stops the ring and starts it again, which polls it (PollThread.startRing).
 * Broken by:
 *   -DNO_RECHECK        the thread does not look at the ring after it asked for kicks
 *   -DNO_ARM_FENCE      it looks before the wish is visible
 *   -DNO_SLEEP_RECHECK  it does not look at the mailbox after it said that it sleeps
 *   -DNO_POLL_AT_START  a ring that starts waits for its first kick */
#include "memory.pml"
#define PACKETS 4
#define WORK 2
#define BEGIN 6

byte availableIndex = BEGIN;
byte availEvent = BEGIN;
bit isAsleep = 0;
BUFFERED(availableIndex);
BUFFERED(availEvent);
BUFFERED(isAsleep);
bit kickEventFD = 0;
bit wakeEventFD = 0;
byte available = BEGIN;
byte posted = 0;
byte done = 0;

active proctype Thread() {
    bit isPolled = 1;
    do
    :: done != posted ->
        done = posted;
        /* The ring stopped and started: kicks of the old descriptor are gone. */
        kickEventFD = 0;
#ifndef NO_POLL_AT_START
        isPolled = 1
#endif
    :: kickEventFD -> kickEventFD = 0; isPolled = 1
    :: isPolled && available != availableIndex -> available = availableIndex
    :: isPolled && available == availableIndex ->
        STORE(availEvent, available);
#ifndef NO_ARM_FENCE
        FENCE(availEvent);
#endif
#ifndef NO_RECHECK
        if
        :: available != availableIndex -> skip
        :: else -> isPolled = 0
        fi
#else
        isPolled = 0
#endif
    :: !isPolled && done == posted && !kickEventFD ->
        STORE(isAsleep, 1);
        FENCE(isAsleep);
#ifndef NO_SLEEP_RECHECK
        if
        :: done != posted || kickEventFD -> goto awake
        :: else
        fi;
#endif
end:    kickEventFD || wakeEventFD;
        wakeEventFD = 0;
awake:  STORE(isAsleep, 0);
        FENCE(isAsleep)
    od
}

active proctype Driver() {
    byte left = PACKETS;
    byte old = BEGIN;
    byte new = BEGIN;
    byte n;
    do
    :: left > 0 ->
        if
        :: n = 1
        :: left > 1 -> n = 2
        fi;
        left = left - n;
        new = PLUS(old, n);
        STORE(availableIndex, new);
        FENCE(availableIndex);
        if
        :: MINUS(MINUS(new, availEvent), 1) < MINUS(new, old) -> kickEventFD = 1
        :: else
        fi;
        old = new
    :: left == 0 -> break
    od
}

active proctype Control() {
    byte left = WORK;
    do
    :: left > 0 ->
        left--;
        posted++;
        /* Mailbox.run holds a lock here and has a full fence: posted is visible. */
        if
        :: isAsleep -> wakeEventFD = 1
        :: else
        fi;
        /* It waits until its work has run. */
        done == posted
    :: left == 0 -> break
    od
}

active proctype Memory() {
end:
    do
    DRAIN(availableIndex)
    DRAIN(availEvent)
    DRAIN(isAsleep)
    od
}

active proctype Monitor() {
end:
    timeout -> assert(available == PLUS(BEGIN, PACKETS) && done == WORK)
}
