//! Where the demo writes: plain lines when piped; colours and a progress line on a terminal only.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::{OwoColorize as _, Stream, Style};

const SPINNER_EVERY: Duration = Duration::from_millis(120);

/// What a piece of text is, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Title,
    Dim,
    Name,
    Login,
    Ended,
    Good,
    Bad,
}

impl Ink {
    fn colours(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Title => Style::new().bold().cyan(),
            Self::Dim => Style::new().dimmed(),
            Self::Name => Style::new().bold(),
            Self::Login => Style::new().green(),
            Self::Ended => Style::new().yellow(),
            Self::Good => Style::new().green().bold(),
            Self::Bad => Style::new().red().bold(),
        }
    }
}

/// Owns standard output for as long as the demo runs.
pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    terminal: bool,
    bar: ProgressBar,
}

impl Screen {
    pub(super) fn standard_output() -> Self {
        let terminal = io::stdout().is_terminal();
        Self { out: Box::new(io::stdout()), terminal, bar: ProgressBar::hidden() }
    }

    /// Whether somebody watches, so that a pace makes sense.
    pub(super) fn is_live(&self) -> bool {
        self.terminal
    }

    /// One line of inked pieces.
    pub(super) fn line(&mut self, pieces: &[(Ink, &str)]) -> io::Result<()> {
        let mut line = String::new();
        for (ink, text) in pieces {
            if self.terminal && *ink != Ink::Plain {
                // `if_supports_color` knows NO_COLOR and terminals without colours.
                let inked = text.if_supports_color(Stream::Stdout, |text| text.style(ink.colours()));
                write!(line, "{inked}").map_err(io::Error::other)?;
            } else {
                line.push_str(text);
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        let out = &mut self.out;
        self.bar.suspend(|| out.write_all(line.as_bytes()).and_then(|()| out.flush()))
    }

    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        text.lines().try_for_each(|line| self.line(&[(Ink::Plain, line)]))
    }

    pub(super) fn blank(&mut self) -> io::Result<()> {
        self.line(&[])
    }

    pub(super) fn title(&mut self, title: &str) -> io::Result<()> {
        self.blank()?;
        self.line(&[(Ink::Title, title)])?;
        self.blank()
    }

    /// Shows the progress line below everything else; nothing where nobody watches.
    pub(super) fn begin_progress(&mut self, length: u64) {
        if !self.terminal {
            return;
        }
        self.bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stdout());
        let style = ProgressStyle::with_template("{spinner} {bar:20} {pos}/{len} logins settled  {wide_msg}");
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        self.bar.enable_steady_tick(SPINNER_EVERY);
    }

    pub(super) fn progress(&self, settled: u64, words: String) {
        self.bar.set_position(settled);
        self.bar.set_message(words);
    }

    pub(super) fn end_progress(&mut self) {
        self.bar.finish_and_clear();
        self.bar = ProgressBar::hidden();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
