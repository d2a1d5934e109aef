/* Does a packed ring go on, whoever sleeps when?
 *
 * Device: PackedQueue: hasWork, armKicks and the second look, complete, needsCall (2.8.10).
 * Driver: PackedDriverQueue: publish, needsKick, armCalls and the second look; it sleeps when all is outstanding.
 * Wrap counters are what is at stake: an event's place is compared with places of this lap or the last.
 * Broken by:
 *   -DNO_RECHECK         the device does not look at the ring after it asked for kicks
 *   -DNO_ARM_FENCE       it looks before the wish is visible
 *   -DNO_KICK_FENCE      the driver reads the device's wish before its descriptors are visible
 *   -DNO_CALL_FENCE      the device reads the driver's wish before its used descriptors are visible
 *   -DNO_CALL_RECHECK    the driver sleeps without a second look
 *   -DWRONG_LAP          an event of the last lap is taken for one of this
 * The flags form of the other models does not fit here: without EVENT_IDX a wish has no place. */
#include "memory.pml"
#define SIZE 2
#define PACKETS 5

/* A descriptor's AVAIL (1) and USED (2) bits; the driver's stores and the device's wait apart. */
byte bits[SIZE];
bit shownWaits; byte shownSlot; byte shownBits;
bit usedWaits; byte usedSlot; byte usedBits;
/* EventSuppression: 0 disable, else 1 + 2 * slot + wrap. */
byte deviceEvent = 1 + 1;
byte driverEvent = 1 + 1;
BUFFERED(deviceEvent);
BUFFERED(driverEvent);
bit kickEventFD = 0;
bit callEventFD = 0;
byte sent = 0;
byte back = 0;

#define AVAILABLE(wrap) (wrap -> 1 : 2)
#define USED(wrap) (wrap -> 3 : 0)
#define SLOT(event) (((event) - 1) / 2)
#define WRAP(event) (((event) - 1) % 2)
#define SHOW(slot, value) atomic { !shownWaits -> shownSlot = slot; shownBits = value; shownWaits = 1 }
#define MARK(slot, value) atomic { !usedWaits -> usedSlot = slot; usedBits = value; usedWaits = 1 }
#define ADVANCE(slot, wrap) if :: slot + 1 == SIZE -> slot = 0; wrap = 1 - wrap :: else -> slot++ fi

/* passes(event, new, old), where `new` counts from 0 in this lap and `count` slots are new. */
#ifdef WRONG_LAP
#define PLACE(event, wrap) SLOT(event)
#else
#define PLACE(event, wrap) ((WRAP(event) == (wrap)) -> SLOT(event) : MINUS(SLOT(event), SIZE))
#endif
#define PASSES(event, new, wrap, count) (MINUS(MINUS(new, PLACE(event, wrap)), 1) < (count))

active proctype Device() {
    byte slot = 0;
    byte wrap = 1;
    byte usedAt = 0;
    byte usedWrap = 1;
    byte taken = 0;
    byte since;
    byte wish;
    bit isPolled = 1;
    do
    :: isPolled && bits[slot] == AVAILABLE(wrap) && taken < SIZE ->
        ADVANCE(slot, wrap);
        taken++
    :: taken > 0 ->
        /* complete: one or all that it has, then needsCall. */
        since = 0;
        do
        :: taken > 0 ->
            MARK(usedAt, USED(usedWrap));
            ADVANCE(usedAt, usedWrap);
            taken--;
            since++
        :: since > 0 -> break
        od;
#ifndef NO_CALL_FENCE
        FENCE(used);
#endif
        wish = driverEvent;
        if
        :: wish != 0 && PASSES(wish, usedAt, usedWrap, since) -> callEventFD = 1
        :: else
        fi
    :: isPolled && taken == 0 && bits[slot] != AVAILABLE(wrap) ->
        /* armKicks */
        STORE(deviceEvent, 1 + 2 * slot + wrap);
#ifndef NO_ARM_FENCE
        FENCE(deviceEvent);
#endif
#ifndef NO_RECHECK
        if
        :: bits[slot] == AVAILABLE(wrap) -> goto awake
        :: else
        fi;
#endif
        isPolled = 0
    :: !isPolled && taken == 0 ->
end:    kickEventFD == 1;
        kickEventFD = 0;
awake:  isPolled = 1;
        /* suppressKicks */
        STORE(deviceEvent, 0)
    od
}

active proctype Driver() {
    byte slot = 0;
    byte wrap = 1;
    byte usedAt = 0;
    byte usedWrap = 1;
    byte free = SIZE;
    byte count;
    byte wish;
    do
    :: sent < PACKETS && free > 0 ->
        count = 0;
        do
        :: sent < PACKETS && free > 0 ->
            SHOW(slot, AVAILABLE(wrap));
            ADVANCE(slot, wrap);
            free--;
            sent++;
            count++
        :: count > 0 -> break
        od;
#ifndef NO_KICK_FENCE
        FENCE(shown);
#endif
        wish = deviceEvent;
        if
        :: wish != 0 && PASSES(wish, slot, wrap, count) -> kickEventFD = 1
        :: else
        fi
    :: free < SIZE && bits[usedAt] == USED(usedWrap) ->
        ADVANCE(usedAt, usedWrap);
        free++;
        back++
    :: free < SIZE && (free == 0 || sent == PACKETS) && bits[usedAt] != USED(usedWrap) ->
        /* armCalls, and sleep. */
        STORE(driverEvent, 1 + 2 * usedAt + usedWrap);
        FENCE(driverEvent);
#ifndef NO_CALL_RECHECK
        if
        :: bits[usedAt] == USED(usedWrap) -> goto again
        :: else
        fi;
#endif
end:    callEventFD == 1;
        callEventFD = 0;
again:  STORE(driverEvent, 0)
    :: sent == PACKETS && free == SIZE -> break
    od
}

active proctype Memory() {
end:
    do
    DRAIN(deviceEvent)
    DRAIN(driverEvent)
    :: atomic { shownWaits -> bits[shownSlot] = shownBits; shownWaits = 0 }
    :: atomic { usedWaits -> bits[usedSlot] = usedBits; usedWaits = 0 }
    od
}

active proctype Monitor() {
end:
    timeout -> assert(sent == PACKETS && back == PACKETS)
}
