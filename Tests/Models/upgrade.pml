/* Does one process at most run the rings, and does each packet cross once, whoever dies or gives up in an upgrade?
 *
 * Predecessor and Successor say to each other what docs/upgrade.md has; EngineHandover and EngineTakeover stop and
 * start the rings: one that packets come from (sends), one that they go to (receives). Each process has a poll thread,
 * which takes a packet, delivers it and gives it back (used, in the ring's own memory). Either process may be killed
 * at any moment, and give up waiting wherever it waits with a limit. The new one may also hang wherever it does
 * something. While it has a deadline (isTimed) the kernel may end it at any moment, and does at last.
 * Broken by:
 *   -DNO_GO              the new one starts when it is ready, without the old one's word
 *   -DIMPATIENT          the old one does not wait for a new one that has its word until that has ended
 *   -DTOLD_EARLY         where the rings stand is said before they have stopped
 *   -DRECEIVERS_FIRST    rings that packets go to stop first: a burst that is under way has no receiver
 *   -DSENDERS_START_FIRST  and start last
 *   -DOWN_PLACE          after a crash the old one goes on where it stopped, not where the ring says
 *   -DNO_DEADLINE        a new one that hangs is not ended
 *   -DTIMED_LATE         it has its deadline from `go` on, not before it says that it is ready
 *   -DCLEARED_EARLY      it has it until its rings run, not until it has said so
 *   -DCLEARED_AT_LEAVE   it has it until it gives up, not until the connection ends */
#define PACKETS 3
#define OLD 0
#define NEW 1
#define other (1 - me)

mtype = { prepared, places, ready, go, running };
chan toOld = [1] of { mtype, byte };
chan toNew = [1] of { mtype, byte };
/* Of the connection: this end has closed, or its process is dead. */
bit hasClosed[2];
bit isDead[2];
/* The new one's deadline is set. */
bit isTimed = 0;
/* All of the new one stands still. */
bit isStopped = 0;
#define GONE(p) (hasClosed[p] || isDead[p])

bit sends[2];
bit receives[2];
bit isBusy[2];
byte next[2];
byte used = 0;
byte delivered[PACKETS];
byte dropped = 0;
/* A process was killed in mid-burst: that packet may cross twice. */
bit wasCut = 0;
bit hasWord = 0;
/* The old one has heard that the new one runs, and is no more of use. */
bit isFollowed = 0;
bit isOver = 0;

/* The next document, which is `kind`; else on to `failed`. `limited`: whoever waits may give up. */
#define EXPECT(channel, from, kind, limited, failed) \
    if \
    :: channel?kind(place) \
    :: empty(channel) && GONE(from) -> goto failed \
    :: limited -> goto failed \
    fi

inline startRings(me) {
#ifdef SENDERS_START_FIRST
    startSender(me);
    receives[me] = 1
#else
    receives[me] = 1;
    startSender(me)
#endif
}

inline startSender(me) {
    assert(isDead[other] || !sends[other]);
    sends[me] = 1
}

/* At the end of a burst. */
inline stopSender(me) { atomic { !isBusy[me] -> sends[me] = 0 } }

inline stopRings(me) {
#ifdef RECEIVERS_FIRST
    receives[me] = 0;
    stopSender(me)
#else
    stopSender(me);
    receives[me] = 0
#endif
}

proctype PollThread(bit me) {
    {
        do
        :: atomic { sends[me] && next[me] < PACKETS && !(isStopped && me == NEW) -> isBusy[me] = 1 };
            if
            :: receives[me] -> delivered[next[me]]++
            :: else -> dropped++
            fi;
            used = next[me] + 1;
            atomic { next[me]++; isBusy[me] = 0 }
        :: isOver -> break
        od
    } unless { isDead[me] }
}

proctype Predecessor() {
    byte place;
    {
        EXPECT(toOld, NEW, prepared, 1, close);
#ifdef TOLD_EARLY
        place = next[OLD];
        stopRings(OLD);
#else
        stopRings(OLD);
        place = next[OLD];
#endif
        toNew!places(place);
        EXPECT(toOld, NEW, ready, 1, resume);
        hasWord = 1;
        toNew!go(0);
#ifdef IMPATIENT
        EXPECT(toOld, NEW, running, 1, crashed);
#else
        EXPECT(toOld, NEW, running, 0, crashed);
#endif
        isFollowed = 1;
        goto close;
crashed:
#ifndef IMPATIENT
        GONE(NEW);
#endif
#ifndef OWN_PLACE
        next[OLD] = used;
#endif
resume:
        startRings(OLD);
close:
        hasClosed[OLD] = 1
    } unless { isDead[OLD] }
}

/* Goes on, or never; then its poll thread goes on, or stops as well. */
#define MAY_HANG if :: skip :: skip; isOver -> goto over :: isStopped = 1; isOver -> goto over fi

proctype Successor() {
    byte place;
    byte told;
    {
        toOld!prepared(0);
        MAY_HANG;
        EXPECT(toNew, OLD, places, 1, leave);
        told = place;
#if !defined(NO_DEADLINE) && !defined(TIMED_LATE)
        isTimed = 1;
#endif
        toOld!ready(0);
        MAY_HANG;
#ifndef NO_GO
        EXPECT(toNew, OLD, go, 1, leave);
#endif
#ifdef TIMED_LATE
        isTimed = 1;
#endif
        next[NEW] = told;
        MAY_HANG;
        startRings(NEW);
#ifdef CLEARED_EARLY
        isTimed = 0;
#endif
        MAY_HANG;
        toOld!running(0);
        isTimed = 0;
        goto over;
leave:
#ifdef CLEARED_AT_LEAVE
        isTimed = 0;
#endif
        MAY_HANG;
        hasClosed[NEW] = 1;
        isTimed = 0;
over:
        skip
    } unless { isDead[NEW] }
}

proctype Deadline() {
    do
    :: atomic { isTimed -> isDead[NEW] = 1; wasCut = wasCut || isBusy[NEW]; isTimed = 0 }
    :: isOver -> break
    od
}

proctype Killer(bit me) {
    if
    :: atomic { isDead[me] = 1; wasCut = wasCut || isBusy[me] }
    :: skip
    fi
}

init {
    byte i = 0;
    byte doubled = 0;
    atomic {
        sends[OLD] = 1;
        receives[OLD] = 1;
        run PollThread(OLD);
        run PollThread(NEW);
        run Predecessor();
        run Successor();
        run Deadline();
        run Killer(OLD);
        run Killer(NEW)
    };
    timeout;
    atomic {
        assert(dropped == 0);
        do
        :: i < PACKETS ->
            assert(delivered[i] <= 2);
            doubled = doubled + (delivered[i] == 2);
            i++
        :: else -> break
        od;
        assert(doubled <= wasCut);
        /* Rings are without a process where the old one has died and the new one had not its word, and where both are
         * dead or of no more use. */
        assert(used == PACKETS || isDead[OLD] && (isDead[NEW] || !sends[NEW]) || isFollowed && isDead[NEW]);
        isOver = 1
    }
}
