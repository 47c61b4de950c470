// JSON patches (RFC 6902) on objects that Vue watches, where an assignment to a new key would not be seen.

/** Changes `document` in place. Throws where an operation does not fit it. */
export function applyPatch(document, operations) {
  for (const operation of operations) {
    applyOperation(document, operation);
  }
}

function applyOperation(document, operation) {
  const { parent, key } = locate(document, operation.path);
  switch (operation.op) {
    case 'add':
      return add(parent, key, operation.value);
    case 'replace':
      return Vue.set(parent, key, operation.value);
    case 'remove':
      return remove(parent, key);
    case 'copy':
      return add(parent, key, structuredClone(valueAt(document, operation.from)));
    case 'move': {
      const value = valueAt(document, operation.from);
      const from = locate(document, operation.from);
      remove(from.parent, from.key);
      return add(parent, key, value);
    }
    default:
      throw new Error(`a patch with the operation ${operation.op}`);
  }
}

function locate(document, pointer) {
  const keys = pointer.split('/').slice(1).map((key) => key.replace(/~1/g, '/').replace(/~0/g, '~'));
  const last = keys.pop();
  const parent = keys.reduce((place, key) => place[key], document);
  if (parent === null || typeof parent !== 'object') {
    throw new Error(`a patch for ${pointer}, which is not there`);
  }
  return { parent, key: Array.isArray(parent) && last !== '-' ? Number(last) : last };
}

function valueAt(document, pointer) {
  const { parent, key } = locate(document, pointer);
  return parent[key];
}

function add(parent, key, value) {
  if (!Array.isArray(parent)) {
    Vue.set(parent, key, value);
  } else if (key === '-') {
    parent.push(value);
  } else {
    parent.splice(key, 0, value);
  }
}

function remove(parent, key) {
  if (Array.isArray(parent)) {
    parent.splice(key, 1);
  } else {
    Vue.delete(parent, key);
  }
}
