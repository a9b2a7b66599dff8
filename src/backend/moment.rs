//! Moments as PostgreSQL's timestamptz holds them.

use pgrx::pg_sys;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 2000-01-01 UTC. In JSON seconds since 1970, as extract(epoch) gives them: states of older releases hold
/// that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

/// Of 1970-01-01 UTC.
const EPOCH: i64 = -946_684_800_000_000;

impl Moment {
    pub fn now() -> Moment {
        // SAFETY: reads the clock.
        Moment(unsafe { pg_sys::GetCurrentTimestamp() })
    }

    /// As `GetCurrentTimestamp` counts.
    pub fn microseconds(self) -> i64 {
        self.0
    }

    fn of_epoch(seconds: f64) -> Moment {
        // A number that is too great for it becomes the greatest.
        Moment(((seconds * 1e6).round() as i64).saturating_add(EPOCH))
    }

    fn epoch(self) -> f64 {
        self.0.saturating_sub(EPOCH) as f64 / 1e6
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.epoch().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Moment, D::Error> {
        f64::deserialize(deserializer).map(Moment::of_epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::{Moment, EPOCH};

    #[test]
    fn a_moment_comes_back_to_the_microsecond() {
        for microseconds in [0, 1, -1, 849_180_896_789_012, EPOCH, EPOCH - 1, 5_000_000_000_000_001] {
            let written = serde_json::to_string(&Moment(microseconds)).unwrap();
            assert_eq!(serde_json::from_str::<Moment>(&written).unwrap(), Moment(microseconds), "{written}");
        }
        assert_eq!(serde_json::from_str::<Moment>("946684800").unwrap(), Moment(0));
        assert_eq!(serde_json::from_str::<Moment>("1.5").unwrap(), Moment(EPOCH + 1_500_000));
        assert!(serde_json::from_str::<Moment>("1e300").is_ok());
    }
}
