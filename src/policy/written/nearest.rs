//! Which known word somebody may have meant.

/// The known word that is fewest edits away, if it is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near_enough = (word.chars().count() / 2).min(4);
    let distances = known.iter().map(|known| (edits(word, known), *known));
    distances
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= near_enough)
        .map(|(_, near)| near)
}

/// How many characters must be put in, taken out or replaced to make one word the other.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (line, from) in a.chars().enumerate() {
        let mut left = line + 1;
        let mut diagonal = line;
        for (place, to) in row.iter_mut().zip(std::iter::once(None).chain(b.chars().map(Some))) {
            let above = *place;
            *place = match to {
                None => line + 1,
                Some(to) => (diagonal + usize::from(from != to)).min(above + 1).min(left + 1),
            };
            left = *place;
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("limit", "limits", 1),
            ("mode", "code", 1),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edits(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let known = ["limit", "mode", "per_device"];
        assert_eq!(nearest("limt", &known), Some("limit"));
        assert_eq!(nearest("perdevice", &known), Some("per_device"));
        assert_eq!(nearest("colour", &known), None);
    }
}
