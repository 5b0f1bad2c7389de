//! One macro for the enums whose variants are words that a user types or reads.
//!
//! A word is written once: in the configuration, on the command line, in JSON, in metrics and in
//! messages it is the same text.

/// Defines an enum of words with `ALL`, `as_str`, `Display`, `FromStr` and serde as that word.
macro_rules! words {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $( $(#[$variant_meta:meta])* $variant:ident = $word:literal ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        $vis enum $name {
            $( $(#[$variant_meta])* #[serde(rename = $word)] $variant ),+
        }

        impl $name {
            /// Every word, in the order in which they are documented.
            pub const ALL: &'static [Self] = &[ $( Self::$variant ),+ ];

            /// What a text that is none of these words breaks, as part of a sentence.
            pub fn rule() -> String {
                $crate::words::one_of(Self::ALL.iter().map(|word| word.as_str()))
            }

            /// The word as it is typed and shown.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word ),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|word| word.as_str() == text)
                    .ok_or_else(Self::rule)
            }
        }
    };
}

/// "must be one of a, b or c", with the words quoted.
pub(crate) fn one_of(words: impl Iterator<Item = &'static str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => format!("must be {last}"),
        Some((last, rest)) => format!("must be one of {} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
