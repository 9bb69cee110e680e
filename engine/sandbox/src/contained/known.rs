//! What this machine can do and the zygotes that were started, found out once and kept.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use super::{
    Inner, died,
    offer::Offer,
    zygote::{NoZygote, Zygote},
};
use crate::launch::LaunchError;

/// What there is once something was launched.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) offer: Option<Arc<Offer>>,
    /// By the user on the host.
    pub(super) zygotes: HashMap<Option<u32>, Arc<Zygote>>,
    /// By user and group on disk, and the tool's user.
    pub(super) id_maps: HashMap<((u32, u32), u32), Arc<OwnedFd>>,
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn starting(&self) -> MutexGuard<'_, ()> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watched(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The zygote for this user; a new one if there is none, or none any more.
    pub(super) fn zygote(
        &self,
        offer: &Arc<Offer>,
        user: Option<(u32, u32)>,
    ) -> Result<Arc<Zygote>, LaunchError> {
        let key = user.map(|(uid, _)| uid);
        let living = || {
            let state = self.state();
            if is_over(&state, offer) {
                return Err(died(Errno::PIPE.into()));
            }
            Ok(state.zygotes.get(&key).filter(|zygote| !zygote.is_gone()).cloned())
        };
        if let Some(zygote) = living()? {
            return Ok(zygote);
        }
        let _starting = self.starting();
        // Whoever was before us has started one.
        if let Some(zygote) = living()? {
            return Ok(zygote);
        }
        let watched = self.watched().clone();
        let zygote = offer.start(&self.settings, user, &watched).map_err(NoZygote::into_launch_error)?;
        let zygote = Arc::new(zygote);
        let before = self.state().zygotes.insert(key, Arc::clone(&zygote));
        drop(before);
        Ok(zygote)
    }

    /// What this machine can do, tried out once; where that lies in a scope of systemd's, once for each.
    pub(super) fn offer(&self) -> Result<Arc<Offer>, LaunchError> {
        if let Some(offer) = self.known_offer() {
            return Ok(offer);
        }
        let _starting = self.starting();
        if let Some(offer) = self.known_offer() {
            return Ok(offer);
        }
        let before = self.state().offer.clone();
        let watched = self.watched().clone();
        let (offer, zygote) = Offer::find(&self.settings, &watched, before.as_deref())?;
        let offer = Arc::new(offer);
        let (key, zygote) = (offer.user.map(|(uid, _)| uid), zygote.map(Arc::new));
        let mut state = self.state();
        state.offer = Some(Arc::clone(&offer));
        let gone = zygote.and_then(|zygote| state.zygotes.insert(key, zygote));
        drop(state);
        // Neither while others wait for the lock.
        drop((before, gone));
        Ok(offer)
    }

    /// What was found out before. Each keeper knows all folders to watch afterwards: whoever makes something in them asks for
    /// the offer first.
    fn known_offer(&self) -> Option<Arc<Offer>> {
        let state = self.state();
        let offer = Arc::clone(state.offer.as_ref()?);
        if is_over(&state, &offer) {
            return None;
        }
        let watched = self.watched();
        let untold = state.zygotes.values().filter(|zygote| zygote.has_to_watch(&watched));
        let untold: Vec<_> = untold.cloned().collect();
        if !untold.is_empty() {
            let folders = watched.clone();
            drop((watched, state));
            untold.iter().for_each(|zygote| zygote.watch(&folders));
        }
        Some(offer)
    }
}

/// Whether the scope of systemd's that this was found in is gone: that goes with its zygote, and then it has been found out anew,
/// or is to be.
pub(super) fn is_over(state: &State, offer: &Arc<Offer>) -> bool {
    let key = offer.user.map(|(uid, _)| uid);
    let is_current = || state.offer.as_ref().is_some_and(|now| Arc::ptr_eq(now, offer));
    let lives = || state.zygotes.get(&key).is_some_and(|zygote| !zygote.is_gone());
    offer.scope.is_some() && !(is_current() && lives())
}
