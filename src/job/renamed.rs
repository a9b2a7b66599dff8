//! Names of columns that a job's configuration holds, and what they are on the source now.

/// What happened to the names of a source's columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Renamed {
    /// Old and new names.
    pub renamed: Vec<(String, String)>,
    pub gone: Vec<String>,
}

impl Renamed {
    /// A list of names, as they are now, without those that are gone.
    pub fn list(&self, names: &[String]) -> Vec<String> {
        names.iter().filter(|name| !self.gone.contains(name)).map(|name| self.name(name)).collect()
    }

    pub fn name(&self, name: &str) -> String {
        let now = self.renamed.iter().find(|(old, _)| old == name).map(|(_, new)| new.as_str());
        now.unwrap_or(name).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Renamed;

    #[test]
    fn names_are_those_of_today_without_those_that_are_gone() {
        let renamed = Renamed { renamed: vec![("a".to_string(), "b".to_string())], gone: vec!["c".to_string()] };
        let list = |names: &[&str]| renamed.list(&names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>());
        assert_eq!(list(&["x", "a", "c"]), ["x", "b"]);
    }
}
