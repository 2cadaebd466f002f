"""The demo's data, made from small real data inside registry packages; each fetcher is `fetch(card, context)`."""
