/* Does each parcel reach the other thread once, in order, and come back, whoever sleeps or drains?
 *
 * Two threads hand parcels to each other as Exchange does: a ring (head), a bell, a count of readers (remaining), a
 * look at isAsleep. Each has one parcel, so it can hand over no second one before the first is back. Once, at any
 * moment, each must let go of its pair's packets (PollThread.drain, for GET_VRING_BASE).
 * Broken by:
 *   -DBELL_LAST          the bell is taken back after the ring was looked at: a parcel that came between is not seen
 *   -DNO_SLEEP_RECHECK   the thread sleeps without a second look at the rings
 *   -DNO_WAKE_FENCE      isAsleep is read before the parcel is visible
 *   -DNO_ACCEPT_IN_DRAIN a thread that drains does not serve the other, which waits for it
 *   -DREUSE_EARLY        a parcel is used again before its reader has let go of it */
#define PARCELS 2

/* head[i]: of the ring from thread i to the other. A thread's stores become visible in their order. */
byte head[2];
bit headWaits[2];
bit bell[2];
bit bellWaits[2];
bit isAsleep[2];
bit wakeEventFD[2];
byte remaining[2];
byte content[2];
byte delivered[2];

#define other (1 - me)
#define FENCE (!headWaits[me] && !bellWaits[other])

inline accept() {
    do
    :: tail != head[other] ->
        tail++;
        assert(remaining[other] == 1);
        assert(content[other] == tail);
        delivered[other]++;
        remaining[other] = 0
    :: else -> break
    od
}

proctype Thread(bit me) {
    byte tail = 0;
    byte sent = 0;
    bit isUnderWay = 0;
    bit mustDrain = 1;
    do
    :: bell[me] ->
#ifdef BELL_LAST
        accept();
        bell[me] = 0
#else
        atomic { FENCE -> bell[me] = 0 };
        accept()
#endif
    :: isUnderWay && remaining[me] == 0 -> isUnderWay = 0
#ifdef REUSE_EARLY
    :: sent < PARCELS ->
#else
    :: !isUnderWay && sent < PARCELS ->
#endif
        sent++;
        content[me] = sent;
        remaining[me] = 1;
        isUnderWay = 1;
        atomic { !headWaits[me] -> headWaits[me] = 1 };
        atomic { !bellWaits[other] -> bellWaits[other] = 1 };
#ifndef NO_WAKE_FENCE
        FENCE;
#endif
        if
        :: isAsleep[other] -> wakeEventFD[other] = 1
        :: else
        fi
    :: mustDrain ->
        mustDrain = 0;
        do
        :: isUnderWay ->
            if
            :: remaining[me] == 0 -> isUnderWay = 0
#ifndef NO_ACCEPT_IN_DRAIN
            :: tail != head[other] -> accept()
#endif
            fi
        :: else -> break
        od
    :: !isUnderWay && sent == PARCELS && !mustDrain && !bell[me] ->
        isAsleep[me] = 1;
        FENCE;
#ifndef NO_SLEEP_RECHECK
        if
        :: tail != head[other] -> accept()
        :: else ->
end:        wakeEventFD[me]
        fi;
#else
        wakeEventFD[me];
#endif
        wakeEventFD[me] = 0;
        isAsleep[me] = 0
    od
}

active proctype Memory() {
    byte i;
end:
    do
    :: atomic { headWaits[0] -> head[0]++; headWaits[0] = 0 }
    :: atomic { headWaits[1] -> head[1]++; headWaits[1] = 0 }
    :: atomic { bellWaits[1] && !headWaits[0] -> bell[1] = 1; bellWaits[1] = 0 }
    :: atomic { bellWaits[0] && !headWaits[1] -> bell[0] = 1; bellWaits[0] = 0 }
    od
}

init {
    atomic { run Thread(0); run Thread(1) };
end:
    timeout -> assert(delivered[0] == PARCELS && delivered[1] == PARCELS)
}
