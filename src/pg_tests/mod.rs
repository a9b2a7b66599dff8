//! Tests of single functions that need a server around them, each as an SQL function of the schema `tests`: tests/support/pg_test.sh
//! runs them in a server of their own. What several sessions or two servers have to show is in tests/.

mod columns;
mod decoding;
mod names;
mod ownership;
mod parsing;

/// Numbers that look random, and are the same each time (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}
