/* Is each chain of a packed transmit ring given back once, whenever the back-end is killed?
 *
 * BackEnd: RecordedRing over an InflightQueue: took, publishing, the used descriptors (the first becomes visible last),
 * left, published; killed between any two stores, up to CRASHES times, and begun again by resumePacked (takesAgain).
 * Driver: makes chains of one descriptor available as it has room, and takes used ones. Ids tell chains apart.
 * Broken by:
 *   -DNO_OLD_USED      the region says how far the ring will be used, and not how far it was
 *   -DLEFT_FIRST       marks are taken away before the driver is told
 *   -DNO_FREE_LIST     a batch that was told is not forgotten with its marks
 *   -DFIRST_FIRST      the batch's first descriptor is written first: the driver sees others' old ids
 *   -DNO_RESTORE       a batch whose first descriptor was not written stays marked, and the driver takes its rest for done
 *   -DWHOLE_RING       a batch of the whole ring is taken for none
 *   -DSTALE_LINK       what publishing wrote before a crash stays in the list of free entries
 *   -DNO_COUNTER       what is taken again goes by the entries' places, not by the order in which it was taken */
#define SIZE 3
#define PACKETS 4
#define CRASHES 2
#define AVAILABLE(wrap) (wrap -> 1 : 2)
#define USED(wrap) (wrap -> 3 : 0)
#define ADVANCE(slot, wrap) if :: slot + 1 == SIZE -> slot = 0; wrap = 1 - wrap :: else -> slot++ fi
#define NEXT(slot) (((slot) + 1) % SIZE)

/* The ring. */
byte bits[SIZE];
byte id[SIZE];
/* The region: one word for used and old used, places as 2 * slot + wrap. */
byte used = 1;
byte oldUsed = 1;
byte freeHead = 0;
byte oldFreeHead = 0;
bit isInflight[SIZE];
byte counters[SIZE];
byte saved[SIZE];
byte nextFree[SIZE];

/* What the driver has outstanding, by id; ids are 1 to SIZE. */
bit isOut[4];
byte sent = 0;
byte back = 0;
byte crashes = CRASHES;

/* The process may end here. */
#define STEP if :: crashes > 0 -> crashes--; goto crash :: skip fi

active proctype BackEnd() {
    byte slot; byte wrap;
    byte usedAt; byte usedWrap;
    byte newAt; byte newWrap;
    byte counter; byte taken; byte count; byte i; byte at; byte least;
    byte order[SIZE];
begin:
    atomic {
        /* resumePacked; nothing happens between its steps but what the driver does, which it does not look at. */
        newAt = used / 2; newWrap = used % 2;
        if
        :: used != oldUsed ->
            if
            :: bits[oldUsed / 2] == AVAILABLE(oldUsed % 2) -> newAt = oldUsed / 2; newWrap = oldUsed % 2
            :: else ->
#ifndef NO_FREE_LIST
                at = freeHead;
                i = SIZE;
                do
                :: isInflight[at] = 0;
                    at = nextFree[at];
                    i--;
                    /* A batch of the whole ring ends where it begins. */
                    if :: at == oldFreeHead || i == 0 -> break :: else fi
#ifdef WHOLE_RING
                :: freeHead == oldFreeHead -> break
#endif
                od
#else
                skip
#endif
            fi
        :: else
        fi;
        slot = newAt; wrap = newWrap;
        usedAt = newAt; usedWrap = newWrap;
        /* What is in flight, in the order in which it was taken. */
        taken = 0;
        counter = 0;
        do
        :: taken < SIZE ->
            least = 255;
            at = SIZE;
            i = 0;
            do
            :: i < SIZE ->
#ifdef NO_COUNTER
                if :: isInflight[i] && i >= counter && at == SIZE -> at = i :: else fi;
#else
                if :: isInflight[i] && counters[i] < least && counters[i] >= counter -> least = counters[i]; at = i :: else fi;
#endif
                i++
            :: else -> break
            od;
            if
            :: at == SIZE -> break
            :: else ->
                order[taken] = saved[at];
#ifdef NO_COUNTER
                counter = at + 1;
#else
                counter = least + 1;
#endif
                taken++;
                ADVANCE(slot, wrap)
            fi
        :: else -> break
        od;
#ifndef NO_RESTORE
        i = 0;
        do
        :: i < taken ->
            at = (newAt + i) % SIZE;
            if
            :: bits[at] != AVAILABLE((newAt + i >= SIZE -> 1 - newWrap : newWrap)) ->
                bits[at] = AVAILABLE((newAt + i >= SIZE -> 1 - newWrap : newWrap));
                id[at] = order[i]
            :: else
            fi;
            i++
        :: else -> break
        od;
#endif
        i = 0;
        do
        :: i < SIZE ->
#ifdef STALE_LINK
            if :: !isInflight[i] -> nextFree[i] = NEXT(i) :: else fi;
#else
            nextFree[i] = NEXT(i);
#endif
            i++
        :: else -> break
        od;
        freeHead = slot; oldFreeHead = slot;
        used = 2 * newAt + newWrap; oldUsed = used
    }
    do
    :: taken < SIZE && bits[slot] == AVAILABLE(wrap) ->
        /* took */
        saved[slot] = id[slot]; STEP;
        counters[slot] = counter; STEP;
        isInflight[slot] = 1; STEP;
        order[taken] = id[slot];
        counter++;
        taken++;
        freeHead = NEXT(slot); STEP;
        oldFreeHead = NEXT(slot); STEP;
        ADVANCE(slot, wrap)
    :: taken > 0 ->
        /* One or more are given back together. */
        count = 1;
        do
        :: count < taken -> count++
        :: break
        od;
        newAt = usedAt; newWrap = usedWrap;
        i = 0;
        do
        :: i < count -> ADVANCE(newAt, newWrap); i++
        :: else -> break
        od;
        /* publishing */
        nextFree[(newAt + SIZE - 1) % SIZE] = oldFreeHead; STEP;
        freeHead = usedAt; STEP;
#ifdef NO_OLD_USED
        atomic { used = 2 * newAt + newWrap; oldUsed = used }
#else
        atomic { used = 2 * newAt + newWrap; oldUsed = 2 * usedAt + usedWrap }
#endif
        STEP;
#ifdef LEFT_FIRST
        i = 0;
        do
        :: i < count -> isInflight[(usedAt + i) % SIZE] = 0; STEP; i++
        :: else -> break
        od;
#endif
        /* complete: the first becomes visible last. */
#ifdef FIRST_FIRST
        i = 0;
        do
        :: i < count ->
            at = (usedAt + i) % SIZE;
            bits[at] = USED((usedAt + i >= SIZE -> 1 - usedWrap : usedWrap)); STEP;
            id[at] = order[i]; STEP;
            i++
        :: else -> break
        od;
#else
        i = count;
        do
        :: i > 0 ->
            i--;
            at = (usedAt + i) % SIZE;
            /* One word. */
            atomic { id[at] = order[i]; bits[at] = USED((usedAt + i >= SIZE -> 1 - usedWrap : usedWrap)) }
            STEP
        :: else -> break
        od;
#endif
        /* left */
        i = 0;
        do
        :: i < count -> isInflight[(usedAt + i) % SIZE] = 0; STEP; i++
        :: else -> break
        od;
        /* published */
        nextFree[(newAt + SIZE - 1) % SIZE] = newAt; STEP;
        freeHead = oldFreeHead; STEP;
        atomic { used = 2 * newAt + newWrap; oldUsed = used }
        STEP;
        atomic {
            usedAt = newAt; usedWrap = newWrap;
            i = 0;
            do
            :: i + count < taken -> order[i] = order[i + count]; i++
            :: else -> break
            od;
            taken = taken - count
        }
    :: taken == 0 && bits[slot] != AVAILABLE(wrap) ->
end:    bits[slot] == AVAILABLE(wrap)
    od;
crash:
    atomic { slot = 0; wrap = 0; usedAt = 0; usedWrap = 0; newAt = 0; newWrap = 0; counter = 0; count = 0; i = 0; at = 0; goto begin }
}

active proctype Driver() {
    byte slot = 0; byte wrap = 1;
    byte usedAt = 0; byte usedWrap = 1;
    byte free = SIZE;
    byte which;
    do
    :: sent < PACKETS && free > 0 ->
        /* Any id that is free. */
        if
        :: !isOut[1] -> which = 1
        :: !isOut[2] -> which = 2
        :: !isOut[3] -> which = 3
        fi;
        atomic { isOut[which] = 1; id[slot] = which; bits[slot] = AVAILABLE(wrap) }
        ADVANCE(slot, wrap);
        free--;
        sent++
    :: free < SIZE && bits[usedAt] == USED(usedWrap) ->
        /* Given back twice, or never taken. */
        assert(isOut[id[usedAt]]);
        isOut[id[usedAt]] = 0;
        ADVANCE(usedAt, usedWrap);
        free++;
        back++
    :: sent == PACKETS && free == SIZE -> break
    od
}

active proctype Monitor() {
end:
    timeout -> assert(sent == PACKETS && back == PACKETS)
}
