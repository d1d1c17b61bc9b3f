//! Chance from a seed: the same on every machine and after every update of a dependency.

use std::cell::Cell;

/// SplitMix64, by its published constants.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low + 1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }

    pub(crate) fn one_of<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.roll() % from.len() as u64).unwrap()]
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for place in (1..items.len()).rev() {
            items.swap(place, usize::try_from(self.roll() % (place as u64 + 1)).unwrap());
        }
    }
}

thread_local! {
    static OF_THIS_THREAD: Cell<u64> = const { Cell::new(0) };
}

/// From now on the workers of this thread get their chance from this seed.
pub(crate) fn seed_workers(seed: u64) {
    OF_THIS_THREAD.set(seed);
}

/// What the workers are given in place of real chance.
pub(crate) fn chance_of_workers() -> f64 {
    let roll = OF_THIS_THREAD.get();
    let mut dice = Dice::of(roll);
    let drawn = dice.roll();
    OF_THIS_THREAD.set(drawn);
    f64::from(u32::try_from(drawn >> 32).unwrap()) / f64::from(u32::MAX)
}
