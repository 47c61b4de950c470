// A chart of apexcharts, which is redrawn in place when its series change.
/* global ApexCharts */
export const chart = {
  name: 'sly-apexchart',
  props: { options: Object, series: Array, type: String, height: [Number, String], slyOptions: Object },
  emits: ['click', 'data-point-selection'],
  mounted() {
    const plain = structuredClone(JSON.parse(JSON.stringify(this.options)));
    const chart = { ...plain.chart, type: this.type, height: this.height, toolbar: { show: false } };
    chart.animations = { enabled: false };
    chart.events = {
      dataPointSelection: (event, context, point) => this.$emit('data-point-selection', point),
      click: (event, context, point) => this.$emit('click', point),
    };
    this.chart = new ApexCharts(this.$refs.chart, { noData: { text: 'No values yet', offsetY: 14 }, ...plain, chart, series: this.copy() });
    this.chart.render();
  },
  beforeDestroy() {
    this.chart.destroy();
  },
  methods: {
    copy() {
      return JSON.parse(JSON.stringify(this.series || []));
    },
  },
  watch: {
    series: {
      deep: true,
      handler() {
        this.chart.updateSeries(this.copy(), false);
      },
    },
    options: {
      deep: true,
      handler() {
        this.chart.updateOptions(JSON.parse(JSON.stringify(this.options)), false, false);
      },
    },
  },
  template: '<div class="chart"><div ref="chart"></div></div>',
};
