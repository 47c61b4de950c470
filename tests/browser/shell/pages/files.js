// Team Files below a folder.
import { show } from './platform.js';

const files = {
  props: { account: Object, call: Function },
  data: () => ({ files: [], folder: new URLSearchParams(location.search).get('path') || '/' }),
  async created() {
    const found = await this.call('file-storage.list', { teamId: this.account.team, path: this.folder, recursive: true });
    this.files = found.filter((file) => file.type !== 'folder' && !file.isDir);
  },
  methods: {
    size: (bytes) => (bytes > 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`),
  },
  template: `
    <sly-card :title="folder" :subtitle="files.length + ' files'">
      <div v-for="file in files" :key="file.path" class="row">
        <a class="grow" :href="file.fullStorageUrl" target="_blank">{{ file.path.slice(folder.length) }}</a>
        <span>{{ size(file.meta.size) }}</span>
      </div>
      <div v-if="!files.length">Nothing here yet: a training leaves its experiment here.</div>
    </sly-card>`,
};

show('Team Files', files);
