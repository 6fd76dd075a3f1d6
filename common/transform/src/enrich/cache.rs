//! A bounded memory of what was worked out for a text.
//!
//! Texts lie one after another in one buffer, so that an entry is no allocation of its own. There are two
//! generations, each with half of the memory: when the younger is full, the older is forgotten. What is asked for
//! again meanwhile moves to the younger, so the texts that come often stay.

use ahash::RandomState;
use hashbrown::HashTable;

/// Values of type `V`, each for a distinct text.
#[derive(Debug)]
pub(super) struct Cache<V> {
    hasher: RandomState,
    young: Generation<V>,
    old: Generation<V>,
    /// Bytes that each generation may hold.
    most_bytes: usize,
}

#[derive(Debug)]
struct Generation<V> {
    entries: HashTable<Entry<V>>,
    texts: String,
}

#[derive(Debug)]
struct Entry<V> {
    /// Where in [`Generation::texts`] the text lies.
    start: u32,
    length: u32,
    value: V,
}

impl<V: Copy> Cache<V> {
    /// `most_bytes`: what both generations together may hold, at most 4 GiB.
    pub(super) fn new(most_bytes: u32) -> Self {
        let generation = || Generation { entries: HashTable::new(), texts: String::new() };
        Self {
            hasher: RandomState::new(),
            young: generation(),
            old: generation(),
            most_bytes: most_bytes as usize / 2,
        }
    }

    /// The value of `text`, which `work_out` gives if it isn't remembered.
    pub(super) fn get_or(&mut self, text: &str, work_out: impl FnOnce() -> V) -> V {
        let hash = self.hasher.hash_one(text);
        if let Some(value) = self.young.get(hash, text) {
            return value;
        }
        let value = self.old.get(hash, text).unwrap_or_else(work_out);
        self.remember(hash, text, value);
        value
    }

    fn remember(&mut self, hash: u64, text: &str, value: V) {
        if self.young.bytes_with(text) > self.most_bytes {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.entries.clear();
            self.young.texts.clear();
            if self.young.bytes_with(text) > self.most_bytes {
                // One text alone is too large to be remembered.
                return;
            }
        }
        self.young.insert(hash, text, value, &self.hasher);
    }

    /// Bytes that are held.
    pub(super) fn memory(&self) -> usize {
        self.young.bytes() + self.old.bytes()
    }
}

impl<V: Copy> Generation<V> {
    fn get(&self, hash: u64, text: &str) -> Option<V> {
        self.entries.find(hash, |entry| entry.text(&self.texts) == text).map(|entry| entry.value)
    }

    fn insert(&mut self, hash: u64, text: &str, value: V, hasher: &RandomState) {
        // Both fit: a generation holds less than 4 GiB.
        let (start, length) = (self.texts.len() as u32, text.len() as u32);
        self.texts.push_str(text);
        let texts = &self.texts;
        self.entries
            .insert_unique(hash, Entry { start, length, value }, |entry| hasher.hash_one(entry.text(texts)));
    }

    fn bytes(&self) -> usize {
        self.entries.allocation_size() + self.texts.capacity()
    }

    /// What [`Self::bytes`] will say, or a little less, when `text` has been inserted: both the table and the buffer
    /// double when they are full.
    fn bytes_with(&self, text: &str) -> usize {
        let entries = self.entries.allocation_size();
        let grown = if self.entries.len() < self.entries.capacity() { entries } else { 2 * entries };
        let length = self.texts.len() + text.len();
        let capacity = self.texts.capacity();
        grown + if length <= capacity { capacity } else { length.max(2 * capacity) }
    }
}

impl<V> Entry<V> {
    fn text<'a>(&self, texts: &'a str) -> &'a str {
        &texts[self.start as usize..][..self.length as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_remembered_is_what_was_worked_out(
            texts in prop::collection::vec("[a-d]{0,3}|[é-í]{0,40}", 0..400),
            most_bytes in 0_u32..4_000,
        ) {
            let mut cache = Cache::new(most_bytes);
            let mut asked = HashMap::new();
            for (number, text) in texts.iter().enumerate() {
                let mut worked_out = false;
                let value = cache.get_or(text, || { worked_out = true; number });
                prop_assert!(worked_out || asked.get(text) == Some(&value), "{text}");
                asked.insert(text, value);
                prop_assert!(cache.memory() <= most_bytes as usize + 256, "{} of {most_bytes}", cache.memory());
            }
        }
    }

    #[test]
    fn texts_that_come_often_stay() {
        let mut cache = Cache::new(64 << 10);
        let mut times_worked_out = 0;
        for number in 0..100_000 {
            cache.get_or("often", || times_worked_out += 1);
            cache.get_or(&format!("once {number}"), || ());
        }
        assert_eq!(times_worked_out, 1);
        assert!(cache.memory() <= 64 << 10, "{}", cache.memory());
    }
}
