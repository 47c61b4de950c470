// Images of a project with their labels, and what a deployed model predicts on them.
import { all, show } from './platform.js';

const SHOWN = 12;

const project = {
  props: { account: Object, call: Function },
  data: () => ({ name: '', images: [], count: SHOWN, meta: {}, annotations: {}, predicted: {}, model: null, busy: null }),
  async created() {
    const id = Number(location.pathname.split('/')[2]);
    this.name = (await this.call('projects.info', { id })).name;
    this.meta = await this.call('projects.meta', { id });
    const datasets = await all(this.call, 'datasets.list', { projectId: id, recursive: true });
    for (const dataset of datasets) {
      const images = await all(this.call, 'images.list', { datasetId: dataset.id });
      const found = await this.call('annotations.bulk.info', { datasetId: dataset.id, imageIds: images.map((image) => image.id) });
      found.forEach(({ imageId, annotation }) => this.$set(this.annotations, imageId, annotation.objects));
      this.images.push(...images);
    }
    this.model = (this.servers[0] || {}).id || null;
  },
  computed: {
    servers() {
      return this.account.sessions.filter(({ name, open }) => open && name === 'Serve HRDA').reverse();
    },
    shown() {
      return this.images.slice(0, this.count);
    },
  },
  methods: {
    content(image) {
      const prediction = this.predicted[image.id];
      const figures = prediction ? prediction.figures : this.annotations[image.id] || [];
      const projectMeta = prediction ? prediction.meta : this.meta;
      return { layout: [['image']], annotations: { image: { url: image.fullStorageUrl, figures } }, projectMeta };
    },
    async ask(command, state) {
      return this.call('tasks.request.direct', { taskId: this.model, command, context: {}, state });
    },
    async predict(image) {
      this.busy = image.id;
      try {
        const meta = await this.ask('get_output_classes_and_tags', {});
        const answer = await this.ask('inference_image_id', { image_id: image.id });
        this.$set(this.predicted, image.id, { meta, figures: answer.annotation.objects });
      } catch (error) {
        this.$notify.error({ title: 'No prediction', message: error.message, duration: 0 });
      }
      this.busy = null;
    },
    says(image) {
      const prediction = this.predicted[image.id];
      if (!prediction) {
        const count = (this.annotations[image.id] || []).length;
        return count ? `${count} ${count === 1 ? 'label' : 'labels'}` : 'no labels';
      }
      const names = prediction.figures.map((figure) => figure.classTitle);
      return `predicted: ${names.length ? names.join(', ') : 'nothing'}`;
    },
  },
  template: `
    <sly-card :title="name" :subtitle="images.length + ' images'">
      <p v-if="!servers.length">To predict, start and deploy Serve HRDA on the <a href="/">first page</a>.</p>
      <p v-else>Predict with <el-select v-model="model" size="small">
        <el-option v-for="server in servers" :key="server.id" :value="server.id" :label="server.name + ', session ' + server.id"></el-option>
      </el-select></p>
      <div class="photos">
        <div v-for="image in shown" :key="image.id" class="photo">
          <sly-grid-gallery :content="content(image)" :options="{ showOpacityInHeader: false }"></sly-grid-gallery>
          <div class="row"><span class="grow">{{ image.name }}<br>{{ says(image) }}</span>
            <el-button size="small" :disabled="!model" :loading="busy === image.id" @click="predict(image)">Predict</el-button></div>
        </div>
      </div>
      <el-button v-if="count < images.length" size="small" @click="count += 12">More images</el-button>
    </sly-card>`,
};

show('Project', project);
