import Tables
import Testing

/// With a clock of the test's own.
@Suite struct TokenBucketTests {
    @Test("a burst, then the rate, to the unit")
    func rate() {
        // 1,000 packets a second, 10 at once, a clock of microseconds.
        var bucket = TokenBucket(rate: 1000, burst: 10, ticksPerSecond: 1_000_000, now: 5)
        for _ in 0..<10 { #expect(isTrue(bucket.take(1, now: 5))) }
        #expect(!bucket.take(1, now: 5) && !bucket.take(1, now: 1004))
        #expect(isTrue(bucket.take(1, now: 1005)))
        #expect(!bucket.take(1, now: 2004) && bucket.take(1, now: 2005))
        #expect(!bucket.take(3, now: 5004) && bucket.take(3, now: 5005))
        #expect(bucket.available(now: 5005) == 0 && bucket.available(now: 7004) == 1)
        #expect(bucket.ticks(until: 1, now: 7005) == 0 && bucket.ticks(until: 3, now: 7005) == 1000)
        #expect(bucket.ticks(until: 3, now: 7006) == 999 && bucket.ticks(until: 11, now: 7006) == nil)
        // A pause of any length saves up one burst.
        #expect(bucket.available(now: 1 << 40) == 10)
        #expect(!bucket.take(11, now: 1 << 41) && bucket.take(10, now: 1 << 41))
    }

    @Test("against fractions counted out, for random rates, bursts, clocks and demands")
    func reference() {
        var random = Random(seed: 1)
        for _ in 0..<rounds(300) {
            let rate = 1 + random.below(5000)
            let burst = 1 + random.below(200)
            let ticks = 1 + random.below(5000)
            var bucket = TokenBucket(
                rate: UInt64(rate), burst: UInt64(burst), ticksPerSecond: UInt64(ticks), now: 0)
            // In units of 1 / ticks, tick by tick.
            var (credit, at, now) = (burst * ticks, 0, 0)
            for _ in 0..<200 {
                now += random.below(random.below(4) == 0 ? 300 : 3)
                while at < now {
                    credit = min(burst * ticks, credit + rate)
                    at += 1
                }
                let n = random.below(burst + 2)
                let passes = n * ticks <= credit
                #expect(bucket.available(now: UInt64(now)) == UInt64(credit / ticks))
                if let wait = bucket.ticks(until: UInt64(n), now: UInt64(now)) {
                    #expect(passes == (wait == 0))
                    #expect(credit + Int(wait) * rate >= n * ticks)
                    #expect(wait == 0 || credit + (Int(wait) - 1) * rate < n * ticks)
                } else {
                    #expect(n > burst)
                }
                #expect(bucket.take(UInt64(n), now: UInt64(now)) == passes)
                if passes { credit -= n * ticks }
            }
        }
    }

    @Test("asked at each tick or seldom, a second's worth passes in a second: no fraction is lost")
    func noDrift() {
        // 3 units in 7 ticks, over 70 million ticks.
        for step in [1, 3, 7, 13] {
            var bucket = TokenBucket(rate: 3, burst: 20, ticksPerSecond: 7, now: 0)
            #expect(isTrue(bucket.take(20, now: 0)))
            var (passed, now) = (0, 0)
            while now < rounds(7_000_000) {
                now += step
                while bucket.take(1, now: UInt64(now)) { passed += 1 }
            }
            #expect(passed == now * 3 / 7)
        }
    }

    @Test("a clock that goes back adds nothing, and what it did before is not added twice")
    func backwards() {
        var bucket = TokenBucket(rate: 1, burst: 100, ticksPerSecond: 1, now: 1000)
        #expect(isTrue(bucket.take(100, now: 1000)))
        #expect(!bucket.take(1, now: 900) && !bucket.take(1, now: 0) && !bucket.take(1, now: 1000))
        #expect(bucket.take(1, now: 1001) && !bucket.take(1, now: 1001))
        #expect(!bucket.take(1, now: 1000) && !bucket.take(1, now: 1001) && bucket.take(1, now: 1002))
        // The clock's 64 bits wrap.
        bucket = TokenBucket(rate: 1, burst: 100, ticksPerSecond: 1, now: .max)
        #expect(isTrue(bucket.take(100, now: .max)))
        #expect(bucket.take(3, now: 2) && !bucket.take(1, now: 2))
    }

    @Test("nothing overflows: the largest rates, bursts, clocks and pauses")
    func extremes() {
        let values: [UInt64] = [0, 1, 2, 1000, 1 << 31, 1 << 32, 1 << 62, 1 << 63, .max - 1, .max]
        for rate in values {
            for burst in values {
                for ticks in values {
                    var bucket = TokenBucket(rate: rate, burst: burst, ticksPerSecond: ticks, now: 0)
                    #expect(bucket.available(now: 0) == burst)
                    #expect(isTrue(bucket.take(burst, now: 0)))
                    #expect(burst == .max || !bucket.take(burst &+ 1, now: 0))
                    #expect(bucket.available(now: 0) == 0)
                    var now: UInt64 = 0
                    for pause in [1, 1 << 20, 1 << 40, 1 << 62, UInt64(Int64.max)] {
                        now &+= pause
                        // What a pause brings, and no more than a burst.
                        let clock = UInt128(max(1, ticks))
                        let (high, low) = rate.multipliedFullWidth(by: pause)
                        let least = (UInt128(high) << 64 | UInt128(low)) / clock
                        let available = bucket.available(now: now)
                        #expect(available <= burst && UInt128(available) >= min(least, UInt128(burst)))
                        _ = bucket.ticks(until: burst, now: now)
                        #expect(isTrue(bucket.take(available, now: now)))
                    }
                    bucket.change(rate: burst, burst: rate, now: now)
                    #expect(bucket.available(now: now) <= rate)
                }
            }
        }
    }

    @Test("another rate keeps what was saved up, as far as the burst goes")
    func change() {
        var bucket = TokenBucket(rate: 10, burst: 100, ticksPerSecond: 10, now: 0)
        #expect(isTrue(bucket.take(60, now: 0)))
        bucket.change(rate: 20, burst: 50, now: 5)
        #expect(bucket.rate == 20 && bucket.burst == 50 && bucket.available(now: 5) == 45)
        #expect(bucket.available(now: 6) == 47 && bucket.available(now: 100) == 50)
        bucket.change(rate: 0, burst: 10, now: 100)
        #expect(bucket.take(10, now: 100) && !bucket.take(1, now: 1 << 50))
        #expect(bucket.ticks(until: 1, now: 1 << 50) == nil)
        bucket.change(rate: 1, burst: 1000, now: 1 << 50)
        #expect(bucket.available(now: 1 << 50) == 0 && bucket.available(now: 1 << 50 + 100) == 10)
    }
}
