//! What tests that write at random, and lose their sessions, have in common.

use postgres::Client;
use std::time::Duration;

/// Numbers that look random and are the same every time.
pub struct Dice(pub u64);

impl Dice {
    /// From 0 up to `sides`, which is left out.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len() as u64) as usize]
    }

    /// Waits for `least` milliseconds, and for less than `more` above that.
    pub fn pause(&mut self, least: u64, more: u64) {
        std::thread::sleep(Duration::from_millis(least + self.roll(more)));
    }
}

/// Commits what was prepared in this database under a name LIKE `pattern`.
pub fn commit_prepared(client: &mut Client, pattern: &str) -> Result<(), postgres::Error> {
    let query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE $1";
    for row in client.query(query, &[&pattern])? {
        client.batch_execute(&format!("COMMIT PREPARED '{}'", row.get::<_, String>(0)))?;
    }
    Ok(())
}
