//! Beginning anew: the process replaces itself by its own program, in its own place.

use std::{
    env, fs, io,
    os::{fd::RawFd, unix::process::CommandExt as _},
    path::Path,
    process::Command,
};

/// This program, also where its file has been replaced meanwhile.
const SELF: &str = "/proc/self/exe";
/// Tells the new program what the former one has left open.
const LEFT_OPEN: &str = "BUNDLEHOOK_LEFT_OPEN";
/// `O_CLOEXEC`, as the kernel shows it among the flags of a descriptor.
const CLOSED_BY_EXEC: u32 = 0o2_000_000;

/// Replaces the process by its own program, with the same arguments and environment. The process id stays, so whoever
/// supervises it sees nothing of that. What other threads still do ends here.
///
/// Returns only if that is not possible, with the reason.
pub fn begin() -> io::Error {
    let mut args = env::args_os();
    let name = args.next().unwrap_or_default();
    // By its name if that still leads to this program, since the kernel calls a process by the name of its file.
    let program = env::current_exe().ok().filter(|path| path.exists());
    let program = program.as_deref().unwrap_or(Path::new(SELF));
    let open: Vec<String> = left_open().unwrap_or_default().iter().map(ToString::to_string).collect();
    Command::new(program).arg0(name).args(args).env(LEFT_OPEN, open.join(",")).exec()
}

/// Closes what this process had left open when it began anew: pipes of librdkafka, which does not mark them as its own. To
/// be called before anything else is opened.
pub fn close_left_open() {
    let open = env::var(LEFT_OPEN).unwrap_or_default();
    for descriptor in open.split(',').filter_map(|number| number.parse::<RawFd>().ok()) {
        // One that is not open is as good.
        let _ = nix::unistd::close(descriptor);
    }
}

/// The descriptors that the next program would inherit, beside standard input, output and error.
fn left_open() -> io::Result<Vec<RawFd>> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        // The one that reads the folder is gone by then.
        let (Some(number), Ok(info)) = (number, fs::read_to_string(&path)) else { continue };
        let flags =
            info.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
        if number > 2 && flags.is_some_and(|flags| flags & CLOSED_BY_EXEC == 0) {
            open.push(number);
        }
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};

    use super::*;

    #[test]
    fn what_is_not_closed_by_itself_is_known() {
        // Of the standard library, which marks it, and of nobody who does.
        let (marked, _) = io::pipe().unwrap();
        let kept: OwnedFd = nix::unistd::pipe().unwrap().0;
        let open = left_open().unwrap();
        assert!(open.contains(&kept.as_raw_fd()) && !open.contains(&marked.as_raw_fd()), "{open:?}");
    }
}
