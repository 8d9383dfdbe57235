//! Names that Weir's catalog takes, made from Feast's, which may be any text. Promises: a name that is good already stays
//! as it is, and no two names of one kind become one.

use std::collections::{HashMap, HashSet};

use weir_domain::catalog::{NAME_BYTES_MAX, is_name};

/// Stands where a name has no letter at all that could be kept.
const UNNAMED: &str = "unnamed";

/// A name of Feast's as the catalog takes it: `Driver-Stats` is `driver_stats`, `avgTrips` is `avg_trips`.
pub fn weir_name(feast: &str) -> String {
    if is_name(feast) {
        return feast.to_owned();
    }
    let mut name = String::with_capacity(feast.len());
    let mut before = ' ';
    for c in feast.chars() {
        if c.is_ascii_alphanumeric() {
            let begins_a_word = c.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit());
            if begins_a_word && !name.ends_with('_') {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        } else if !name.is_empty() && !name.ends_with('_') {
            name.push('_');
        }
        before = c;
    }
    let name = name.trim_end_matches('_');
    let name = match name.chars().next() {
        None => UNNAMED.to_owned(),
        Some(first) if first.is_ascii_digit() => format!("n{name}"),
        Some(_) => name.to_owned(),
    };
    cut(&name, NAME_BYTES_MAX).to_owned()
}

/// All that is here is ASCII.
fn cut(name: &str, to: usize) -> &str {
    name.get(..to).unwrap_or(name).trim_end_matches('_')
}

/// The names of one kind of things.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    of: HashMap<String, String>,
    taken: HashSet<String>,
}

impl Names {
    /// Nothing gets one of these.
    pub(super) fn without(reserved: &[&str]) -> Self {
        Self { of: HashMap::new(), taken: reserved.iter().map(|name| (*name).to_owned()).collect() }
    }

    /// Names all of these: first those that can stay as they are.
    pub(super) fn add<'n>(&mut self, feast: impl Iterator<Item = &'n str> + Clone) {
        for good in [true, false] {
            for name in feast.clone().filter(|name| is_name(name) == good) {
                if !self.of.contains_key(name) {
                    let unique = self.unique(name);
                    self.of.insert(name.to_owned(), unique);
                }
            }
        }
    }

    /// The name of what Feast calls so.
    pub(super) fn of(&self, feast: &str) -> String {
        self.of.get(feast).cloned().unwrap_or_else(|| weir_name(feast))
    }

    /// A name like this one that nothing has yet.
    pub(super) fn unique(&mut self, like: &str) -> String {
        let name = weir_name(like);
        let numbered = (2..).map(|n: u64| {
            let suffix = format!("_{n}");
            format!("{}{suffix}", cut(&name, NAME_BYTES_MAX - suffix.len()))
        });
        let mut candidates = std::iter::once(name.clone()).chain(numbered);
        let free = candidates.find(|candidate| !self.taken.contains(candidate)).unwrap_or(name.clone());
        self.taken.insert(free.clone());
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_stay_readable() {
        for (feast, wanted) in [
            ("driver_stats", "driver_stats"),
            ("a_", "a_"),
            ("Driver-Stats", "driver_stats"),
            ("avgTrips7d", "avg_trips7d"),
            ("UserID", "user_id"),
            ("7d mean", "n7d_mean"),
            ("größe", "gr_e"),
            ("空 格", "unnamed"),
            ("_private", "private"),
            ("a@v2", "a_v2"),
        ] {
            assert_eq!(weir_name(feast), wanted, "{feast}");
        }
    }

    #[test]
    fn two_names_never_become_one_and_a_good_one_stays() {
        let mut names = Names::without(&["request"]);
        let all = ["A b", "a_b", "a-b", "request", "Request"];
        names.add(all.into_iter());
        assert_eq!(all.map(|name| names.of(name)), ["a_b_2", "a_b", "a_b_3", "request_2", "request_3"]);
        let long = "x".repeat(80);
        assert_eq!(names.unique(&long).len(), 64);
        assert_eq!(names.unique(&long), format!("{}_2", "x".repeat(62)));
    }

    proptest! {
        #[test]
        fn whatever_feast_says_the_catalog_takes(feast in any::<String>()) {
            prop_assert!(is_name(&weir_name(&feast)), "{}", weir_name(&feast));
        }
    }
}
