// Element-ui has it, and does not register it.
export const collapseTransition = {
  name: 'el-collapse-transition',
  functional: true,
  render: (create, { children }) => create('transition', { props: { name: 'fade' } }, children),
};
