//! A page of the documentation whose commands are run as they stand there, in their order.

use std::collections::VecDeque;

use anyhow::{Context, Result, ensure};

use crate::cluster::client_program;

/// The commands of a page that were not run yet.
pub struct Page {
    /// Under which heading each block stands, and its text.
    blocks: VecDeque<(String, String)>,
    /// What stands in for the values of the page.
    variables: String,
}

impl Page {
    /// A page whose first block sets variables, and nothing else. Here they have these values.
    ///
    /// # Errors
    /// It sets other variables.
    pub fn new(text: &str, variables: &[(&str, &str)]) -> Result<Self> {
        let mut blocks = blocks(text);
        let (_, first) = blocks.pop_front().context("the page has no commands")?;
        let set: Vec<&str> = first.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        let known: Vec<&str> = variables.iter().map(|(name, _)| *name).collect();
        ensure!(set == known && first.lines().count() == set.len(), "the page begins with {first}");
        let variables = variables.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
        Ok(Self { blocks, variables })
    }

    /// Runs the next block, which stands under this heading.
    ///
    /// # Errors
    /// It stands elsewhere, or a command of it fails.
    pub async fn run(&mut self, heading: &str) -> Result<String> {
        let (under, block) = self.blocks.pop_front().context("every command of the page was run")?;
        ensure!(under == heading, "the next command stands under {under:?}: {block}");
        let script = format!("set -euo pipefail\n{}{block}", self.variables);
        client_program("bash", &["-c", &script]).await
    }

    /// Sees that every command was run.
    ///
    /// # Errors
    /// One was not.
    pub fn end(self) -> Result<()> {
        ensure!(self.blocks.is_empty(), "commands that were not run: {:?}", self.blocks);
        Ok(())
    }
}

/// The blocks of shell commands of a page, each with the heading above it.
fn blocks(text: &str) -> VecDeque<(String, String)> {
    let (mut found, mut heading, mut block) = (VecDeque::new(), String::new(), None::<String>);
    for line in text.lines() {
        match &mut block {
            Some(code) if line == "```" => {
                found.push_back((heading.clone(), std::mem::take(code)));
                block = None;
            }
            Some(code) => code.extend([line, "\n"]),
            None if line == "```sh" => block = Some(String::new()),
            None if line.starts_with('#') => heading = line.trim_start_matches(['#', ' ']).to_owned(),
            None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_its_blocks_under_their_headings() {
        let text = "# Page\n```sh\nA=1\n```\n## First\n```sh\nx\ny\n```\n```yaml\nz: 1\n```\n";
        let found: Vec<_> = blocks(text).into();
        let wanted = [("Page", "A=1\n"), ("First", "x\ny\n")].map(|(one, other)| (one.to_owned(), other.to_owned()));
        assert_eq!(found, wanted);
        assert!(Page::new(text, &[("A", "2")]).is_ok() && Page::new(text, &[("B", "2")]).is_err());
    }

    #[test]
    fn every_command_of_the_page_on_restoring_is_found() {
        let page = include_str!("../../../docs/restore.md");
        let blocks = blocks(page);
        assert!(blocks.len() > 8, "the page was not understood: {blocks:?}");
        assert_eq!(blocks.len(), page.matches("\n```sh\n").count());
    }
}
