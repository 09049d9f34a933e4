//! The order in which lock classes are taken: recorded and checked in debug builds, absent in release builds.
//!
//! The kernel's lockdep works so. A thread keeps the list of what it holds; another lock adds an arrow from each of them
//! to a graph of the whole process, with the places in the code, and panics if an arrow would close a circle. Each
//! thread remembers the arrows that it has checked, so that the graph is locked once for each.

#[cfg(debug_assertions)]
pub use self::checked::{Class, HeldLock};
#[cfg(not(debug_assertions))]
pub use self::unchecked::{Class, HeldLock};

#[cfg(debug_assertions)]
mod checked {
    use std::any::type_name;
    use std::cell::RefCell;
    use std::cmp::Ordering;
    use std::collections::{BTreeMap, BTreeSet};
    use std::fmt;
    use std::marker::PhantomData;
    use std::panic::Location;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::thread;

    type Place = &'static Location<'static>;

    /// The mutexes of one type that are created at one place.
    #[derive(Clone, Copy)]
    pub struct Class {
        created: Place,
        /// The type of their values.
        name: fn() -> &'static str,
    }

    /// A class, and where it was locked.
    type Locked = (Class, Place);

    /// Where a class was locked while another was held: the held one with its place, and that of the other.
    type Arrows = BTreeMap<Class, BTreeMap<Class, (Place, Place)>>;

    /// All arrows, from the held class to the one that was locked.
    static ARROWS: Mutex<Arrows> = Mutex::new(BTreeMap::new());

    thread_local! {
        static HELD: RefCell<Vec<Locked>> = const { RefCell::new(Vec::new()) };
        static CHECKED: RefCell<BTreeSet<(Class, Class)>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// A lock of a class that this thread holds.
    #[derive(Debug)]
    pub struct HeldLock(Class, PhantomData<MutexGuard<'static, ()>>);

    impl Class {
        #[track_caller]
        pub const fn here<T>() -> Class {
            Class { created: Location::caller(), name: type_name::<T> }
        }

        /// Checks that the place is not in the standard library.
        pub fn is_known(self) {
            assert!(
                !self.created.file().starts_with("/rustc/"),
                "{self:?} is created by a container: wrap it by `new`"
            );
        }

        /// Checks that this thread may wait for a lock of this class, and records it as held.
        #[track_caller]
        pub fn take(self) -> HeldLock {
            let here = Location::caller();
            // A destructor that locks during a panic must not end the process before the message is out.
            if !thread::panicking() {
                HELD.with_borrow(|held| held.iter().for_each(|other| check(*other, (self, here))));
            }
            HELD.with_borrow_mut(|held| held.push((self, here)));
            HeldLock(self, PhantomData)
        }
    }

    impl fmt::Debug for Class {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "Mutex<{}> of {}", (self.name)(), self.created)
        }
    }

    impl PartialEq for Class {
        fn eq(&self, other: &Class) -> bool {
            self.cmp(other) == Ordering::Equal
        }
    }

    impl Eq for Class {}

    impl PartialOrd for Class {
        fn partial_cmp(&self, other: &Class) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Class {
        fn cmp(&self, other: &Class) -> Ordering {
            self.created.cmp(other.created).then_with(|| (self.name)().cmp((other.name)()))
        }
    }

    impl HeldLock {
        /// Checks that the thread holds nothing else.
        #[track_caller]
        pub fn is_alone(&self) {
            let here = Location::caller();
            HELD.with_borrow(|held| {
                let other = held.iter().find(|(class, _)| *class != self.0);
                if let Some((class, at)) = other.filter(|_| !thread::panicking()) {
                    panic!("L3: a thread waits at {here} for a change of {:?} and holds {class:?} since {at}", self.0);
                }
            });
        }
    }

    impl Drop for HeldLock {
        fn drop(&mut self) {
            // Guards may be dropped in any order.
            HELD.with_borrow_mut(|held| {
                let at =
                    held.iter().rposition(|(class, _)| *class == self.0).expect("it was recorded when it was taken");
                held.remove(at);
            });
        }
    }

    fn check((held, held_at): Locked, (next, next_at): Locked) {
        if held == next {
            panic!("L2: a second {next:?} is locked at {next_at} by a thread that holds one since {held_at}");
        }
        if CHECKED.with_borrow(|checked| checked.contains(&(held, next))) {
            return;
        }
        let mut arrows = ARROWS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = way(&arrows, next, held) {
            let reverse: Vec<String> = way.windows(2).map(|pair| describe(&arrows, pair[0], pair[1])).collect();
            drop(arrows);
            panic!(
                "L1: {next:?} is locked at {next_at} by a thread that holds {held:?} since {held_at}; in another order: {}",
                reverse.join(", and ")
            );
        }
        arrows.entry(held).or_default().entry(next).or_insert((held_at, next_at));
        CHECKED.with_borrow_mut(|checked| checked.insert((held, next)));
    }

    fn describe(arrows: &Arrows, held: Class, next: Class) -> String {
        let (held_at, next_at) = arrows[&held][&next];
        format!("{next:?} at {next_at} by one that held {held:?} since {held_at}")
    }

    /// Returns the classes on a way along the arrows, if there is one.
    fn way(arrows: &Arrows, from: Class, to: Class) -> Option<Vec<Class>> {
        let (mut ways, mut seen) = (vec![vec![from]], BTreeSet::new());
        while let Some(way) = ways.pop() {
            let last = way[way.len() - 1];
            if last == to {
                return Some(way);
            }
            if seen.insert(last) {
                let nexts = arrows.get(&last).into_iter().flat_map(BTreeMap::keys);
                ways.extend(nexts.map(|next| [&way[..], &[*next]].concat()));
            }
        }
        None
    }
}

#[cfg(not(debug_assertions))]
mod unchecked {
    /// The class of a mutex.
    #[derive(Clone, Copy, Debug)]
    pub struct Class;

    /// A lock of a class that this thread holds.
    #[derive(Debug)]
    pub struct HeldLock;

    impl Class {
        pub const fn here<T>() -> Class {
            Class
        }

        pub fn is_known(self) {}

        pub fn take(self) -> HeldLock {
            HeldLock
        }
    }

    impl HeldLock {
        pub fn is_alone(&self) {}
    }
}
