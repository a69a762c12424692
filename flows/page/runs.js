// runs: the MLflow run of a member, to be copied. MLflow shows this page in a frame that may open no link.

// In that frame the page's own address names the server as its reader knows it; else the one that wrote the page does.
function addressOf(run) {
  const [, here] = /^blob:(https?:\/\/[^/]+)\//.exec(location.href) || [];
  return source.place ? `${here ? source.place.replace(/^https?:\/\/[^/]+/, here) : source.place}${run}?workflowType=machine_learning` : '';
}

function runOf(run) {
  const field = make('input', { class: 'run', readonly: true, value: run, 'aria-label': 'Id of the MLflow run', onfocus: () => field.select() });
  const said = make('output', { class: 'note' });
  const button = (text, what) => make('button', { type: 'button', class: 'link', onclick: () => copy(what, said) }, text);
  const address = addressOf(run);
  return [field, make('div', { class: 'chips' }, button('Copy id', run), address ? button('Copy address', address) : null), said];
}

// The clipboard's newer interface is refused in a frame of no origin, so this is done as it was before.
function copy(text, said) {
  const field = make('textarea', { class: 'unseen', 'aria-hidden': 'true' }, text);
  const focused = document.activeElement;
  document.body.append(field);
  field.select();
  const done = document.execCommand('copy');
  field.remove();
  focused?.focus({ preventScroll: true });
  said.textContent = done ? `Copied ${text.length > 40 ? 'the address: paste it into the browser' : 'the id'}.` : 'This browser does not let the page copy: select the id and copy it.';
}
