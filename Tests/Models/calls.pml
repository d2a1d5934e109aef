/* Is a driver that waits for used entries always called?
 *
 * Device: what DeviceQueue publishes, how needsCall decides, and what a start, a stop and a new call descriptor do.
 * Driver: a Linux driver: takes used entries, asks for a call, looks again, sleeps.
 * Every order of bursts, restarts (GET_VRING_BASE to SET_VRING_CALL, the call descriptor last, as QEMU does) and of
 * the driver's steps is tried. Break it to see the model fail (tools/models does, each time):
 *   -DNO_CALL_AT_START      a new call descriptor is not signalled: the guest of QEMU's stop/cont stays asleep
 *   -DNO_FENCE              needsCall reads the driver's wish before the used index is visible
 *   -DNO_RECHECK            the driver sleeps without a second look
 * -DFLAGS models rings without EVENT_IDX: avail.flags instead of used_event. */
#include "memory.pml"
#define PACKETS 4
#define RESTARTS 2
#define BEGIN 6

byte usedIndex = BEGIN;
byte usedEvent = BEGIN;
bit noInterrupt = 0;
BUFFERED(usedIndex);
BUFFERED(usedEvent);
BUFFERED(noInterrupt);
bit callEventFD = 0;
byte lastUsed = BEGIN;

inline newCallDescriptor() {
    hasCall = 1;
#ifndef NO_CALL_AT_START
    /* The eventfd is written by a system call, which is a full barrier. */
    FENCE(usedIndex);
    callEventFD = 1
#endif
}

inline needsCall() {
#ifndef NO_FENCE
    FENCE(usedIndex);
#endif
#ifdef FLAGS
    needs = used != usedAtCall && !noInterrupt;
#else
    needs = MINUS(MINUS(used, usedEvent), 1) < MINUS(used, usedAtCall);
#endif
    usedAtCall = used
}

active proctype Device() {
    byte used = BEGIN;
    byte usedAtCall = BEGIN;
    byte left = PACKETS;
    byte restarts = RESTARTS;
    byte n;
    bit hasCall = 0;
    bit needs;
    do
    :: left > 0 ->
        if
        :: n = 1
        :: left > 1 -> n = 2
        fi;
        left = left - n;
        used = PLUS(used, n);
        STORE(usedIndex, used);
        if
        :: hasCall -> needsCall(); if :: needs -> callEventFD = 1 :: else fi
        :: else
        fi
    :: !hasCall -> newCallDescriptor()
    :: hasCall && restarts > 0 ->
        /* The old descriptor goes, and with it a call that the driver has not taken. */
        restarts--;
        FENCE(usedIndex);
        hasCall = 0;
        callEventFD = 0;
        usedAtCall = used
    :: left == 0 && hasCall && restarts == 0 -> break
    od
}

active proctype Driver() {
    do
    :: lastUsed != usedIndex -> lastUsed = PLUS(lastUsed, 1)
    :: else ->
#ifdef FLAGS
        STORE(noInterrupt, 0);
        FENCE(noInterrupt);
#else
        STORE(usedEvent, lastUsed);
        FENCE(usedEvent);
#endif
#ifndef NO_RECHECK
        if
        :: lastUsed != usedIndex -> goto again
        :: else
        fi;
#endif
end:    callEventFD == 1;
        callEventFD = 0;
again:
#ifdef FLAGS
        STORE(noInterrupt, 1);
#endif
        skip
    od
}

active proctype Memory() {
end:
    do
    DRAIN(usedIndex)
    DRAIN(usedEvent)
    DRAIN(noInterrupt)
    od
}

active proctype Monitor() {
end:
    timeout -> assert(lastUsed == PLUS(BEGIN, PACKETS))
}
